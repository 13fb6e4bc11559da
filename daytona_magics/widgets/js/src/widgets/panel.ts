/**
 * The panel: what the kernel says of the sandbox, and buttons for what can be done to it.
 *
 * What is shown comes in traits, so a reloaded page has it at once. The view tells the kernel when it is in sight
 * and which of its parts are open; when it is not, the kernel asks the endpoint nothing for it.
 */
import { h, visible } from "./dom";
import { Frame, toolbar } from "./frame";
import { CallFailed } from "./line";
import loader from "./loader";
import { AllSandboxes } from "./panel_all";
import { act } from "./panel_draw";
import { Head } from "./panel_head";
import { InsideParts } from "./panel_inside";
import type { Hands, Inside, Others, PanelView, Resources } from "./panel_types";
import css from "./panel.css";
import type { Model, View } from "./types";

/** Milliseconds between two signs that the panel is in sight. */
const SEEN_EVERY = 40_000;

export class SandboxPanel implements Hands {
  private readonly frame: Frame;
  private readonly model: Model;
  private readonly head: Head;
  private readonly inside: InsideParts;
  private readonly all: AllSandboxes;
  private readonly problem = h("div", { class: "dm-problem", role: "alert", hidden: true });
  private readonly report = h("div", { class: "dm-report", hidden: true });
  private readonly below = h("div", { class: "dm-below" });
  private readonly parts = new Map<string, { details: HTMLDetailsElement; count: HTMLElement }>();
  private readonly key = Math.random().toString(36).slice(2, 12);
  private sight = false;
  private told = "";

  constructor(private readonly view: View) {
    this.model = view.model;
    this.frame = new Frame(view, "dm-panel", "Sandbox panel", css);
    this.head = new Head(this, () => void this.refresh(), () => void this.doctor());
    this.inside = new InsideParts(this);
    this.all = new AllSandboxes(this);
    const head = h("div", { class: "dm-panel-head" }, this.head.facts,
      h("div", { class: "dm-panel-side" }, this.head.resources, this.head.times));
    this.frame.build(
      toolbar("Sandbox", this.head.title, this.head.bar),
      this.problem, head, this.head.mode, this.report,
      this.part("contexts", "Contexts, cells and jobs", this.inside.contexts, true),
      this.part("processes", "Sessions and terminals", this.inside.processes),
      this.part("ports", "Listening ports", this.inside.ports),
      this.part("others", "All sandboxes", this.all.element, this.shown.lists),
      this.below,
    );
    this.listen(view.signal);
    this.draw();
  }

  private get shown(): PanelView {
    const empty = { phase: "looking", box: null, mode: { there: false, on: false, tagged: false }, line: false, problem: {}, doing: "", opens: [], lists: false };
    return { ...empty, ...(this.model.get("view") as Partial<PanelView>) } as PanelView;
  }

  private part(name: string, text: string, body: HTMLElement, open = false): HTMLElement {
    const count = h("span", { class: "dm-soft" });
    const details = h("details", { class: "dm-part", open }, h("summary", {}, text, count), body);
    details.addEventListener("toggle", () => this.tell());
    this.parts.set(name, { details, count });
    return details;
  }

  // -- what the kernel says ----------------------------------------------------------------------------------

  private listen(signal: AbortSignal): void {
    const on = (event: string, act: () => void) => {
      this.model.on(event, act);
      signal.addEventListener("abort", () => this.model.off(event, act));
    };
    on("change:view", () => this.draw());
    on("change:resources", () => this.drawResources());
    on("change:inside", () => this.drawInside());
    on("change:others", () => this.drawOthers());
    on("change:told", () => this.tellResult());
    this.frame.onBack = () => this.tell();
    const seen = new IntersectionObserver((entries) => {
      this.sight = entries.some((one) => one.isIntersecting);
      this.tell();
    });
    seen.observe(this.frame.element);
    const changed = () => this.tell();
    const left = () => this.tell(false);
    document.addEventListener("visibilitychange", changed);
    addEventListener("pagehide", left);
    const signs = setInterval(() => this.visible && this.tell(), SEEN_EVERY);
    const clock = setInterval(() => this.visible && this.head.tick(), 1000);
    signal.addEventListener("abort", () => {
      seen.disconnect();
      document.removeEventListener("visibilitychange", changed);
      removeEventListener("pagehide", left);
      clearInterval(signs);
      clearInterval(clock);
      this.tell(false);
    });
  }

  private get visible(): boolean {
    return this.sight && document.visibilityState === "visible";
  }

  /** Say whether the panel is in sight, and with which parts open. */
  private tell(on = this.visible): void {
    if (!this.frame.alive) return;
    const parts = [...this.parts].filter(([, one]) => one.details.open).map(([name]) => name);
    this.frame.line.call("watch", { view: this.key, on, parts }).catch(() => {
      // Said by the banner: the kernel is busy or gone.
    });
    if (on) this.head.tick();
  }

  private draw(): void {
    const view = this.shown;
    this.head.draw(view);
    const { text, hint } = view.problem;
    this.problem.hidden = !text || view.phase === "gone";
    this.problem.textContent = visible(hint ? `${text} (${hint})` : (text ?? ""));
    this.frame.element.setAttribute("aria-busy", String(view.doing !== ""));
    this.drawResources();
    this.drawInside();
    this.drawOthers();
  }

  private get started(): boolean {
    const { box, phase } = this.shown;
    return phase === "bound" && box?.state === "started";
  }

  private drawResources(): void {
    this.head.drawResources((this.model.get("resources") ?? { samples: [], totals: {} }) as Resources, this.started);
  }

  private drawInside(): void {
    const inside = (this.model.get("inside") ?? {}) as Inside;
    this.inside.draw(inside, this.shown.line, this.started);
    const counts = this.started ? this.inside.counts(inside) : {};
    for (const name of ["contexts", "processes", "ports"]) this.say(name, counts[name] ?? "");
  }

  private drawOthers(): void {
    this.all.take((this.model.get("others") ?? {}) as Others);
    this.say("others", this.all.count);
  }

  private say(name: string, count: string): void {
    const part = this.parts.get(name);
    if (part && part.count.textContent !== count) part.count.textContent = count;
  }

  private tellResult(): void {
    const told = (this.model.get("told") ?? {}) as { text?: string; error?: boolean };
    this.told = told.text ?? "";
    this.frame.say(this.told, told.error === true);
  }

  // -- what the reader wants ---------------------------------------------------------------------------------

  call(name: string, given: Record<string, unknown> = {}): Promise<boolean> {
    return this.frame.act(() => this.frame.line.call(name, given));
  }

  opens(kind: string): boolean {
    return this.shown.opens.includes(kind);
  }

  confirm(question: string, yes: string, act: () => unknown): void {
    this.frame.ask.confirm(question, yes, act);
  }

  typed(question: string, name: string, yes: string, act: () => unknown): void {
    this.frame.ask.text(question, "", yes, (text) => {
      if (text === name) void act();
      else this.frame.say(`That is not its name; nothing was done to ${name}.`, true);
    });
  }

  change(what: string, box: { id: string; name: string; foreign?: string }): void {
    const go = (sure: string) => this.send(what, box.id, sure);
    const name = visible(box.name);
    if (box.foreign) {
      this.typed(`${name} ${visible(box.foreign)}. To ${what} it all the same, type its name`, box.name, what, () => go(box.name));
    } else if (what === "delete") {
      this.confirm(`Delete ${name} with all its files? This cannot be undone.`, "Delete", () => go(box.name));
    } else if (what === "stop" || what === "reset") {
      const lost = what === "stop" ? "Running cells end, variables are lost, files are kept." : "Variables are lost, running cells end, files are kept.";
      this.confirm(`${what === "stop" ? "Stop" : "Reset"} ${name}? ${lost}`, what === "stop" ? "Stop" : "Reset", () => go(""));
    } else void go("");
  }

  private async send(what: string, id: string, sure: string): Promise<void> {
    try {
      await this.frame.line.call("change", { what, id, sure });
    } catch (error) {
      const failure = this.frame.failed(error);
      if (failure.code === "confirm") void this.refresh();
    }
  }

  private async refresh(): Promise<void> {
    if (await this.call("refresh")) this.frame.say("Up to date.");
  }

  private async doctor(): Promise<void> {
    this.report.hidden = false;
    const pre = h("pre", { tabindex: 0, "aria-label": "The doctor's report" }, "Asking …");
    const close = act("close-doctor", "Close", "Close the doctor's report", () => {
      this.report.hidden = true;
    });
    this.report.replaceChildren(h("div", { class: "dm-bar" }, h("strong", { class: "dm-path" }, "Doctor"), close), pre);
    const done = await this.frame.act(async () => {
      const { value } = await this.frame.line.call("doctor");
      pre.textContent = String(value["text"]);
    });
    if (!done) this.report.hidden = true;
  }

  // -- other widgets -----------------------------------------------------------------------------------------

  open(kind: string, of: unknown = null): void {
    void this.frame.act(async () => {
      const { value } = await this.frame.line.call("open", { kind, of });
      await this.place(String(value["model"]), kind);
    });
  }

  /** Draw another widget of this kernel below. */
  private async place(id: string, kind: string): Promise<void> {
    const model = await this.found(id);
    const el = h("div", {});
    const ending = new AbortController();
    this.view.signal.addEventListener("abort", () => ending.abort(), { signal: ending.signal });
    const close = act("", "Close", `Close ${kind}`, () => {
      ending.abort();
      slot.remove();
      void this.call("shut", { model: id });
    });
    const slot = h("div", { class: "dm-slot" }, h("div", { class: "dm-acts dm-slot-bar" }, h("span", { class: "dm-soft" }, kind), close), el);
    this.below.prepend(slot);
    await loader.render({ model, el, signal: ending.signal });
    slot.scrollIntoView({ block: "nearest" });
  }

  /** A model that the kernel has just made may take a moment to arrive. */
  private async found(id: string): Promise<Model> {
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.model.widget_manager.get_model(id);
      } catch (error) {
        if (tries >= 40) throw new CallFailed("failed", `The widget did not arrive (${String(error)}).`, "");
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }
}
