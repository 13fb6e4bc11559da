/**
 * What is typed, on its way to the kernel, in order.
 *
 * A key does not wait for the answer to the one before; the kernel takes them one after the other. When much is
 * under way the next message takes along all that came meanwhile, so a large paste goes in pieces, each after the
 * sandbox has taken the one before. An interrupt overtakes what has not left yet.
 */
import { CallFailed, type Line } from "./line";

/** Bytes, and messages, that are under way at most. */
const PIECE = 16 * 1024;
const MESSAGES = 8;
const INTERRUPT = 3;

export class Typing {
  private waiting: Uint8Array[] = [];
  private bytes = 0;
  private messages = 0;

  constructor(
    private readonly line: Line,
    private readonly tab: number,
    private readonly failed: (error: CallFailed) => void,
  ) {}

  add(bytes: Uint8Array): void {
    if (bytes.length === 1 && bytes[0] === INTERRUPT) this.waiting = [];
    for (let at = 0; at < bytes.length; at += PIECE) this.waiting.push(bytes.subarray(at, at + PIECE));
    this.send();
  }

  private send(): void {
    while (this.messages < MESSAGES && this.fits(0)) void this.leave(this.next());
  }

  private async leave(piece: ArrayBuffer): Promise<void> {
    this.messages += 1;
    this.bytes += piece.byteLength;
    try {
      await this.line.call("type", { tab: this.tab }, [piece]);
    } catch (error) {
      this.waiting = [];
      this.failed(error instanceof CallFailed ? error : new CallFailed("failed", String(error), ""));
    } finally {
      this.messages -= 1;
      this.bytes -= piece.byteLength;
    }
    this.send();
  }

  /** Whether what waits first may leave together with so many bytes. */
  private fits(more: number): boolean {
    return this.waiting[0] !== undefined && this.bytes + more + this.waiting[0].length <= PIECE;
  }

  private next(): ArrayBuffer {
    const parts: Uint8Array[] = [];
    let size = 0;
    while (this.fits(size)) {
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
