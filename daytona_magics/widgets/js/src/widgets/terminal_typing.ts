/**
 * What is typed, on its way to the kernel, in order.
 *
 * A key goes at once, while no more than a few others are without an answer. What is more than a key goes one message
 * at a time, each after the sandbox has taken the one before; what comes meanwhile goes together in the next one. An
 * interrupt overtakes what has not left yet.
 */
import { CallFailed, type Line } from "./line";

const PIECE = 16 * 1024;
const INTERRUPT = 3;
/** Bytes of what is a key (`MOST_OF_A_KEY` in the kernel), and how many may be without an answer. */
const KEY = 64;
const KEYS = 8;

export class Typing {
  private waiting: Uint8Array[] = [];
  private sending = false;
  private keys = 0;

  constructor(
    private readonly line: Line,
    private readonly tab: number,
    private readonly failed: (error: CallFailed) => void,
  ) {}

  add(bytes: Uint8Array): void {
    if (bytes.length === 1 && bytes[0] === INTERRUPT) {
      this.waiting = [];
      void this.key(Uint8Array.from(bytes).buffer);
      return;
    }
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
      while (this.waiting.length > 0 && this.keys < KEYS) {
        const bytes = this.next();
        if (bytes.byteLength <= KEY) void this.key(bytes);
        else await this.line.call("type", { tab: this.tab }, [bytes]);
      }
    } catch (error) {
      this.gaveUp(error);
    } finally {
      this.sending = false;
    }
  }

  private async key(bytes: ArrayBuffer): Promise<void> {
    this.keys += 1;
    try {
      await this.line.call("key", { tab: this.tab }, [bytes]);
    } catch (error) {
      this.gaveUp(error);
    }
    this.keys -= 1;
    if (!this.sending) void this.send();
  }

  private gaveUp(error: unknown): void {
    this.waiting = [];
    this.failed(error instanceof CallFailed ? error : new CallFailed("failed", String(error), ""));
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
