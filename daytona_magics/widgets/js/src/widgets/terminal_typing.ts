/**
 * What is typed, on its way to the kernel: in order, one message at a time.
 *
 * Keys that come while a message is under way go together in the next one, and a large paste goes in pieces, each
 * after the sandbox has taken the one before. An interrupt overtakes what has not left yet.
 */
import { CallFailed, type Line } from "./line";

const PIECE = 16 * 1024;
const INTERRUPT = 3;

export class Typing {
  private waiting: Uint8Array[] = [];
  private sending = false;

  constructor(
    private readonly line: Line,
    private readonly tab: number,
    private readonly failed: (error: CallFailed) => void,
  ) {}

  add(bytes: Uint8Array): void {
    if (bytes.length === 1 && bytes[0] === INTERRUPT) this.waiting = [];
    for (let at = 0; at < bytes.length; at += PIECE) this.waiting.push(bytes.subarray(at, at + PIECE));
    if (!this.sending) void this.send();
  }

  /** Bytes that have not left yet. */
  get left(): number {
    return this.waiting.reduce((sum, one) => sum + one.length, 0);
  }

  private async send(): Promise<void> {
    this.sending = true;
    try {
      while (this.waiting.length > 0) {
        await this.line.call("type", { tab: this.tab }, [this.next()]);
      }
    } catch (error) {
      this.waiting = [];
      this.failed(error instanceof CallFailed ? error : new CallFailed("failed", String(error), ""));
    } finally {
      this.sending = false;
    }
  }

  private next(): ArrayBuffer {
    const parts: Uint8Array[] = [];
    let size = 0;
    while (this.waiting[0] !== undefined && size + this.waiting[0].length <= PIECE) {
      const part = this.waiting.shift() as Uint8Array;
      parts.push(part);
      size += part.length;
    }
    const joined = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined.buffer;
  }
}
