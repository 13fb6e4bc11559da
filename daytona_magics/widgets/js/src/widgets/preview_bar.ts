/** The preview's controls: where to go, which port, how wide and how high, and when to load again. */
import { h, visible } from "./dom";
import { button, toolbar } from "./frame";

interface Acts {
  go(): void;
  ports(): Promise<[number, string][]>;
  tab(): void;
  copy(): void;
  say(text: string, error?: boolean): void;
}

const WIDTHS: [string, string, number][] = [["full", "Full width", 0], ["tablet", "Tablet", 768], ["phone", "Phone", 390]];
const FOLLOWS: [string, string][] = [
  ["cells", "⟳ after cells"],
  ["changes", "⟳ on change"],
  ["never", "⟳ by hand"],
];
const LOWEST = 120;
const HIGHEST = 2000;
const STEP = 24;

export class Bar {
  readonly element: HTMLElement;
  /** Between the page and what is below it: pulled, or moved by arrow keys, it makes the page higher. */
  readonly grip = h("div", {
    class: "dm-grip",
    role: "separator",
    tabindex: 0,
    "aria-orientation": "horizontal",
    "aria-label": "Height of the page",
    "aria-valuemin": LOWEST,
    "aria-valuemax": HIGHEST,
  });
  private readonly back = button("←", "Back to the address before", () => this.step(-1));
  private readonly forward = button("→", "Forward to the next address", () => this.step(1));
  private readonly where = h("input", { type: "text", "aria-label": "Path", spellcheck: "false", autocomplete: "off" });
  private readonly choice = h("select", { "aria-label": "Port" });
  private readonly width = h("select", { "aria-label": "Width" });
  private readonly follow = h("select", { "aria-label": "When to load the page again" });
  private visited: [number, string][];
  private at = 0;
  private height = 420;

  constructor(port: number, path: string, private readonly stage: HTMLElement, private readonly acts: Acts) {
    this.visited = [[port, path]];
    this.width.append(...WIDTHS.map(([value, name]) => h("option", { value }, name)));
    this.follow.append(...FOLLOWS.map(([value, name]) => h("option", { value }, name)));
    const again = button("⟳", "Load the page again", () => acts.go());
    for (const one of [this.back, this.forward, again]) one.setAttribute("aria-label", one.title);
    this.element = toolbar(
      "Preview",
      this.back,
      this.forward,
      again,
      this.choice,
      this.where,
      this.width,
      this.follow,
      button("Open tab", "Open the page in a tab of its own", () => acts.tab()),
      button("Copy link", "Copy the page's address; it is good for a while, for everybody", () => acts.copy()),
    );
    this.listen();
    this.resize(this.height);
    this.drawn();
  }

  get port(): number {
    return this.visited[this.at]?.[0] ?? 0;
  }

  get path(): string {
    return this.visited[this.at]?.[1] ?? "/";
  }

  /** "cells", "changes" or "never". */
  get follows(): string {
    return this.follow.value;
  }

  private listen(): void {
    this.where.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.visit(this.port, this.where.value);
      else if (event.key === "Escape") this.drawn();
    });
    this.choice.addEventListener("change", () => this.visit(Number(this.choice.value), "/"));
    // A list is asked for when somebody is about to read it: asking is activity of the sandbox.
    this.choice.addEventListener("focus", () => void this.ask());
    this.width.addEventListener("change", () => {
      const pixels = WIDTHS.find(([value]) => value === this.width.value)?.[2] ?? 0;
      if (pixels) this.stage.dataset.width = String(pixels);
      else delete this.stage.dataset.width;
      this.resize(this.height);
    });
    this.grip.addEventListener("keydown", (event) => this.key(event));
    this.grip.addEventListener("pointerdown", (event) => this.pull(event));
    // A page loaded later is as wide as the one before.
    new MutationObserver(() => this.resize(this.height)).observe(this.stage, { childList: true });
  }

  // -- where ---------------------------------------------------------------------------------------------------

  private visit(port: number, typed: string): void {
    const text = typed.trim();
    if (/^[a-z][a-z0-9+.-]*:|^\/\/|\\/i.test(text)) {
      this.acts.say("Only paths of this server can be shown, like /docs?page=2", true);
      return;
    }
    this.visited = [...this.visited.slice(0, this.at + 1), [port, `/${text.replace(/^\/+/, "")}`]];
    this.at = this.visited.length - 1;
    this.drawn();
    this.acts.go();
  }

  private step(by: number): void {
    if (this.visited[this.at + by] === undefined) return;
    this.at += by;
    this.drawn();
    this.acts.go();
  }

  private drawn(): void {
    this.where.value = visible(this.path);
    this.back.disabled = this.at === 0;
    this.forward.disabled = this.at === this.visited.length - 1;
    if (![...this.choice.options].some((one) => one.value === String(this.port))) {
      this.choice.prepend(h("option", { value: this.port }, `Port ${this.port}`));
    }
    this.choice.value = String(this.port);
  }

  private async ask(): Promise<void> {
    try {
      const found = new Map(await this.acts.ports());
      if (!found.has(this.port)) found.set(this.port, "nothing listens");
      const names = [...found].sort((one, other) => one[0] - other[0]);
      this.choice.replaceChildren(...names.map(([port, command]) => {
        const what = visible(command).slice(0, 40);
        return h("option", { value: port }, what ? `Port ${port}: ${what}` : `Port ${port}`);
      }));
      this.choice.value = String(this.port);
    } catch (error) {
      this.acts.say(error instanceof Error ? error.message : String(error), true);
    }
  }

  // -- size ----------------------------------------------------------------------------------------------------

  private resize(height: number): void {
    this.height = Math.max(LOWEST, Math.min(HIGHEST, Math.round(height)));
    this.stage.style.height = `${this.height}px`;
    this.grip.setAttribute("aria-valuenow", String(this.height));
    const frame = this.stage.querySelector("iframe");
    if (frame) frame.style.width = this.stage.dataset.width ? `${this.stage.dataset.width}px` : "";
  }

  private key(event: KeyboardEvent): void {
    const steps: Record<string, number> = { ArrowUp: -STEP, ArrowDown: STEP, PageUp: -5 * STEP, PageDown: 5 * STEP };
    const step = steps[event.key];
    if (step !== undefined) this.resize(this.height + step);
    else if (event.key === "Home") this.resize(LOWEST);
    else if (event.key === "End") this.resize(HIGHEST);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private pull(event: PointerEvent): void {
    const [from, height] = [event.clientY, this.height];
    const frame = this.stage.querySelector("iframe");
    this.grip.setPointerCapture(event.pointerId);
    // Over the page its own document would get the pointer's moves.
    if (frame) frame.style.pointerEvents = "none";
    const move = (moved: PointerEvent) => this.resize(height + moved.clientY - from);
    const end = () => {
      this.grip.removeEventListener("pointermove", move);
      if (frame) frame.style.pointerEvents = "";
    };
    this.grip.addEventListener("pointermove", move);
    this.grip.addEventListener("lostpointercapture", end, { once: true });
    event.preventDefault();
  }
}
