/**
 * The line between a view and its widget in the kernel (the other end is `widgets/live.py`).
 *
 * Calls go up on the control model and are receipted there at once; their answers, and events, come down on the
 * widget's own model. A receipt that does not come means that the kernel is busy and serves nobody until its cell
 * ends: that is said, the call stays valid, and its answer may still come.
 */
import type { Model } from "./types";

/** Milliseconds until a missing receipt is told. */
const BUSY_AFTER = 1500;

export class CallFailed extends Error {
  constructor(
    readonly code: string,
    text: string,
    readonly hint: string,
  ) {
    super(text);
  }
}

export interface Answer {
  value: Record<string, unknown>;
  buffers: DataView[];
}

export interface LineEvent {
  name: string;
  [field: string]: unknown;
}

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
  late: boolean;
}

interface Message {
  reply?: string;
  value?: Record<string, unknown>;
  error?: { code: string; text: string; hint: string };
  got?: string;
  event?: number;
  missed?: number;
  until?: number;
  name?: string;
}

export class Line {
  private readonly view = Math.random().toString(36).slice(2, 10);
  private readonly waiting = new Map<string, Waiting>();
  private calls = 0;
  private seen = 0;
  private late = 0;

  /** Called when the kernel stops, or begins again, to take calls. */
  onBusy: (busy: boolean) => void = () => {};
  onEvent: (event: LineEvent) => void = () => {};
  /** So many events were lost before those that follow. */
  onMissed: (count: number) => void = () => {};

  constructor(
    model: Model,
    private readonly control: Model,
    signal: AbortSignal,
  ) {
    const down = (message: Message, buffers: DataView[] = []) => this.down(message, buffers);
    const receipt = (message: Message) => this.receipt(message);
    model.on("msg:custom", down);
    control.on("msg:custom", receipt);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", down);
      control.off("msg:custom", receipt);
      for (const one of this.waiting.values()) clearTimeout(one.timer);
      this.waiting.clear();
    });
  }

  /** Say that this view is there, and have what it has not seen. */
  hello(): void {
    this.control.send({ hello: this.seen });
  }

  /** Call a method of the widget. Rejects with CallFailed. */
  call(name: string, given: Record<string, unknown> = {}, buffers: ArrayBuffer[] = []): Promise<Answer> {
    const number = `${this.view}-${++this.calls}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.overdue(number), BUSY_AFTER);
      this.waiting.set(number, { resolve, reject, timer, late: false });
      this.control.send({ call: number, name, with: given }, undefined, buffers);
    });
  }

  private overdue(number: string): void {
    const one = this.waiting.get(number);
    if (one === undefined) return;
    one.late = true;
    this.late += 1;
    if (this.late === 1) this.onBusy(true);
  }

  private receipt(message: Message): void {
    const one = message.got === undefined ? undefined : this.waiting.get(message.got);
    if (one !== undefined) this.heard(one);
  }

  /** The kernel has answered this call in one way or the other. */
  private heard(one: Waiting): void {
    clearTimeout(one.timer);
    if (!one.late) return;
    one.late = false;
    this.late -= 1;
    if (this.late === 0) this.onBusy(false);
  }

  private down(message: Message, buffers: DataView[]): void {
    if (typeof message.event === "number") {
      if (message.event <= this.seen) return;
      this.seen = message.event;
      this.onEvent(message as unknown as LineEvent);
    } else if (typeof message.missed === "number") {
      this.seen = Math.max(this.seen, message.until ?? 0);
      this.onMissed(message.missed);
    } else if (typeof message.reply === "string") {
      const one = this.waiting.get(message.reply);
      if (one === undefined) return;
      this.waiting.delete(message.reply);
      this.heard(one);
      const failed = message.error;
      if (failed) one.reject(new CallFailed(failed.code, failed.text, failed.hint));
      else one.resolve({ value: message.value ?? {}, buffers });
    }
  }
}
