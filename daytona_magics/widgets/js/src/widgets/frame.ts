/**
 * What every widget has around it: a tool bar, a banner that says what is wrong and offers what helps, one question
 * at a time, a status line, and the line to the kernel.
 *
 * The banner shows the gravest of what holds: the widget has ended; the kernel is gone; the kernel is busy with a
 * cell; the sandbox is not started (with the button that starts it). Focus inside never triggers the notebook's
 * shortcuts: a front end looks for `data-lm-suppress-shortcuts` on the focused element itself.
 */
import { Ask } from "./ask";
import { h, style, visible } from "./dom";
import { CallFailed, Line } from "./line";
import type { Model, View } from "./types";

/** How the sandbox stands (`watching.Standing` in the kernel). */
export interface Standing {
  state: string;
  name: string;
  text: string;
  offer: string;
}

const SEEN_EVERY = 60_000;
const BUSY = "The kernel is busy with a cell; this is answered when it ends. ■ interrupts it.";
const GONE = "The kernel that this belongs to is gone. Run the cell again to have it back.";

export class Frame {
  readonly line: Line;
  readonly ask = new Ask();
  readonly element: HTMLElement;
  readonly signal: AbortSignal;
  /** Whether calls can be answered at all: the kernel is there and the widget has not ended. */
  alive = true;
  /** The sandbox stands differently from before; not called for how it stands at first (`standing`). */
  onStanding: (now: Standing, before: Standing) => void = () => {};
  /** The kernel is there again after the page had lost it. */
  onBack: () => void = () => {};
  private readonly model: Model;
  private readonly control: Model;
  private readonly banner = h("div", { class: "dm-banner", role: "status", "aria-live": "polite", hidden: true });
  private readonly status = h("div", { class: "dm-status", role: "status", "aria-live": "polite" });
  private stood: Standing;
  private busy = false;
  private starting = false;
  private bannerText = "";

  /**
   * @param view what the core was given.
   * @param name the widget's own class, `dm-` and a word.
   * @param label what assistive technology calls it.
   * @param css its style sheet, kept once per page.
   */
  constructor(view: View, name: string, label: string, css = "") {
    this.model = view.model;
    this.control = view.control;
    this.signal = view.signal;
    if (css) style(`dm-style-${name}`, css, view.el);
    this.line = new Line(view.model, view.control, view.signal);
    this.line.onBusy = (busy) => {
      this.busy = busy;
      this.inform();
    };
    this.stood = this.standing;
    this.element = h("div", { class: `dm-widget ${name}`, role: "group", "aria-label": label });
    this.element.addEventListener("focusin", (event) => {
      (event.target as HTMLElement).dataset.lmSuppressShortcuts = "true";
    });
    view.el.append(this.element);
    this.watch();
    this.inform();
  }

  /** Put the parts in their places: the bar above, then the banner, the question, the body, the status line. */
  build(bar: HTMLElement | undefined, ...body: HTMLElement[]): void {
    this.element.append(...(bar ? [bar] : []), this.banner, this.ask.element, ...body, this.status);
    // Before this nothing was there to be told anything.
    if (this.alive) this.line.hello();
  }

  /** How the sandbox stands. */
  get standing(): Standing {
    const now = (this.model.get("_sandbox") ?? {}) as Partial<Standing>;
    return { state: now.state ?? "", name: now.name ?? "", text: now.text ?? "", offer: now.offer ?? "" };
  }

  /** One sentence in the status line. */
  say(text: string, error = false): void {
    this.status.textContent = visible(text);
    this.status.dataset.kind = error ? "error" : "";
  }

  /** Say why something failed. The sandbox's state is the banner's to say. */
  failed(error: unknown): CallFailed {
    const failure = error instanceof CallFailed ? error : new CallFailed("failed", String(error), "");
    if (failure.message === this.bannerText) this.say("");
    else this.say(`${failure.message}${failure.hint ? ` (${failure.hint})` : ""}`, true);
    return failure;
  }

  /** Do something that may fail; whether it did not. */
  async act(call: () => Promise<unknown>): Promise<boolean> {
    try {
      await call();
      return true;
    } catch (error) {
      this.failed(error);
      return false;
    }
  }

  private watch(): void {
    const stands = () => {
      const before = this.stood;
      this.stood = this.standing;
      this.inform();
      if (before.state !== this.stood.state) this.onStanding(this.stood, before);
    };
    const lives = () => {
      const before = this.alive;
      this.inform();
      if (this.alive && !before) {
        this.line.hello();
        this.onBack();
      }
    };
    const on = (model: Model, event: string, act: () => void) => {
      model.on(event, act);
      this.signal.addEventListener("abort", () => model.off(event, act));
    };
    on(this.model, "change:_sandbox", stands);
    on(this.model, "change:_ended", lives);
    on(this.control, "comm_live_update", lives);
    const seen = setInterval(() => {
      const shown = this.element.getClientRects().length > 0;
      if (document.visibilityState === "visible" && shown && this.alive) this.control.send({ seen: true });
    }, SEEN_EVERY);
    this.signal.addEventListener("abort", () => clearInterval(seen));
  }

  /** Show in the banner the gravest of what holds. */
  private inform(): void {
    const ended = (this.model.get("_ended") ?? {}) as { why?: string };
    this.alive = !ended.why && this.control.comm_live !== false;
    this.element.classList.toggle("dm-ended", !this.alive);
    if (ended.why) this.show(ended.why, "warning");
    else if (!this.alive) this.show(GONE, "warning");
    else if (this.starting) this.show("Starting the sandbox …", "");
    else if (this.busy) this.show(BUSY, "");
    else this.show(this.stood.text, "warning", this.stood.offer);
  }

  private show(text: string, kind: string, offer = ""): void {
    this.bannerText = text;
    this.banner.hidden = text === "";
    this.banner.dataset.kind = kind;
    const parts: Node[] = text === "" ? [] : [h("span", {}, visible(text))];
    if (offer) parts.push(button(offer, "", () => void this.start()));
    this.banner.replaceChildren(...parts);
  }

  private async start(): Promise<void> {
    this.starting = true;
    this.inform();
    await this.act(() => this.line.call("start"));
    this.starting = false;
    this.inform();
  }
}

/** A button. `title` says more than the text where that is needed. */
export function button(text: string, title: string, act: (event: MouseEvent) => void): HTMLButtonElement {
  const made = h("button", { type: "button", onclick: act }, text);
  if (title) made.title = title;
  return made;
}

/** A button that is on or off. */
export function toggle(text: string, title: string, on: boolean, act: (on: boolean) => void): HTMLButtonElement {
  const made = button(text, title, () => {
    const now = made.getAttribute("aria-pressed") !== "true";
    made.setAttribute("aria-pressed", String(now));
    act(now);
  });
  made.setAttribute("aria-pressed", String(on));
  return made;
}

/** The bar of tools at the head of a widget. */
export function toolbar(label: string, ...tools: (HTMLElement | string)[]): HTMLElement {
  return h("div", { class: "dm-bar", role: "toolbar", "aria-label": label }, ...tools);
}
