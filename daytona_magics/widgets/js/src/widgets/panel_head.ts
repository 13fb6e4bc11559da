/** The head of the panel: the sandbox, what can be done to it, where cells run, its resources and its deadlines. */
import { h, visible } from "./dom";
import { act, left, spark, state, swap } from "./panel_draw";
import type { Hands, PanelView, Resources, Time } from "./panel_types";

const VERBS: [string, string, string][] = [
  ["start", "Start", ""],
  ["stop", "Stop", ""],
  ["pause", "Pause", ""],
  ["recover", "Recover", ""],
  ["archive", "Archive", ""],
  ["reset", "Reset", ""],
  ["delete", "Delete …", "dm-danger"],
];
const KEEP: [string, number][] = [["30 min", 30], ["2 h", 120], ["1 day", 1440], ["for ever", 0]];
const OPENS: Record<string, string> = { FileTree: "Files", LogStream: "Logs", Terminal: "Terminal" };
const WHAT: Record<string, string> = {
  stops: "Auto-stop", pauses: "Auto-pause", archived: "Auto-archive", deleted: "Auto-delete", ends: "Time to live",
};

export class Head {
  readonly bar = h("span", { class: "dm-acts" });
  readonly title = h("span", { class: "dm-panel-title" });
  readonly facts = h("div", { class: "dm-panel-facts" });
  readonly resources = h("div", { class: "dm-panel-resources" });
  readonly times = h("div", { class: "dm-panel-times" });
  readonly mode = h("div", { class: "dm-panel-mode" });
  private counting: [HTMLElement, Time][] = [];

  constructor(
    private readonly hands: Hands,
    private readonly refresh: () => void,
    private readonly doctor: () => void,
  ) {}

  draw(view: PanelView): void {
    const box = view.box;
    const gone = view.phase === "gone";
    swap(this.title, ...(box
      ? [h("strong", { title: visible(box.id) }, visible(box.name)), " ", state(gone ? "gone" : box.state)]
      : [h("strong", {}, view.phase === "looking" ? "Looking for the sandbox …" : "No sandbox yet")]));
    this.drawBar(view, gone);
    this.drawFacts(view, gone);
    this.drawMode(view);
    this.drawTimes(gone ? [] : (box?.times ?? []), box?.can.includes("keep") === true && !gone);
  }

  private drawBar(view: PanelView, gone: boolean): void {
    const box = view.box;
    const can = gone || box === null ? [] : box.can;
    const buttons = VERBS.filter(([what]) => can.includes(what)).map(([what, text, kind]) => {
      const label = what === "start" && box?.state === "paused" ? "Wake" : text;
      const made = act(what, label, `${label.replace(" …", "")} ${box?.name ?? ""}`, () => box && this.hands.change(what, box), kind);
      made.disabled = view.doing !== "";
      return made;
    });
    const opens = view.opens.filter((kind) => kind in OPENS && box?.state === "started" && !gone)
      .map((kind) => act(`open-${kind}`, OPENS[kind] ?? kind, `Open ${OPENS[kind]} below`, () => this.hands.open(kind)));
    swap(this.bar, ...buttons, ...opens, act("refresh", "Refresh", "", this.refresh));
  }

  private drawFacts(view: PanelView, gone: boolean): void {
    const box = view.box;
    if (box === null) {
      swap(this.facts, h("p", { class: "dm-words" }, view.phase === "looking" ? "" : "The first %%sandbox cell creates one."));
      return;
    }
    const words = gone ? "Deleted by somebody, with all its files. Cells say so until another one is made or used." : box.words;
    const fact = (label: string, ...value: (Node | string)[]) => [h("dt", {}, label), h("dd", {}, ...value)];
    const where = [visible(box.where)];
    const parts: Node[] = [
      ...fact("runs on", ...where, ...(box.embedded ? [" ", act("doctor", "doctor", "Open the doctor's report: what this isolation level means", this.doctor, "dm-link")] : [])),
      ...fact("id", h("code", {}, visible(box.id))),
      ...(box.size ? fact("size", visible(box.size)) : []),
      ...(box.context ? fact("context", h("code", {}, visible(box.context))) : []),
      ...(box.labels.length ? fact("labels", ...box.labels.map(([key, value]) => h("span", { class: "dm-badge dm-label" }, visible(`${key}=${value}`)))) : []),
    ];
    swap(this.facts, h("p", { class: "dm-words" }, visible(view.doing ? `${view.doing} …` : words)), h("dl", {}, ...parts));
  }

  private drawMode(view: PanelView): void {
    const { there, on, tagged } = view.mode;
    if (!there) {
      swap(this.mode);
      return;
    }
    const text = on
      ? `${tagged ? "Cells with the tag sandbox" : "All cells of this notebook"} run in the sandbox; %%local runs one here.`
      : "Cells run on this machine; %%sandbox runs one in the sandbox.";
    const made = act("mode", `Run every cell in the sandbox: ${on ? "on" : "off"}`, "",
      () => this.hands.call("mode", { on: !on }));
    made.setAttribute("role", "switch");
    made.setAttribute("aria-checked", String(on));
    made.classList.add("dm-switch");
    swap(this.mode, made, h("span", { class: "dm-soft" }, text));
  }

  drawResources(found: Resources, started: boolean): void {
    const samples = started ? (found.samples ?? []) : [];
    const last = samples[samples.length - 1];
    const rows = (["cpu", "memory", "disk"] as const).map((name, at) => {
      const text = last ? (found.totals[name] ?? "") : "–";
      const label = { cpu: "CPU", memory: "Memory", disk: "Disk" }[name];
      return h("div", { class: "dm-meter" }, h("span", { class: "dm-soft" }, label),
        spark(samples.map((one) => one[at + 1] ?? 0), `${label} over the last minutes, now ${text}`), h("span", { class: "dm-figure" }, text));
    });
    swap(this.resources, ...rows);
  }

  private drawTimes(times: Time[], keep: boolean): void {
    this.counting = [];
    const rows = times.map((one) => {
      const value = h("span", { class: "dm-figure" });
      this.counting.push([value, one]);
      return h("div", { class: "dm-time-row" }, h("span", { class: "dm-soft" }, WHAT[one.what] ?? one.what), value, h("span", { class: "dm-soft" }, one.text));
    });
    const buttons = keep
      ? [h("div", { class: "dm-acts" }, h("span", { class: "dm-soft" }, "Keep without activity"),
          ...KEEP.map(([text, minutes]) => act(`keep-${minutes}`, text, `Keep the sandbox started ${text} without activity`, () => this.hands.call("keep", { minutes }))))]
      : [];
    swap(this.times, ...rows, ...buttons);
    this.tick();
  }

  /** The countdowns go on. */
  tick(): void {
    for (const [place, one] of this.counting) {
      const seconds = one.at === null ? NaN : one.at - Date.now() / 1000;
      const text = Number.isNaN(seconds) ? "" : seconds <= 0 ? "any moment" : `${one.about ? "about " : ""}${left(seconds)}`;
      if (place.textContent !== text) place.textContent = text;
    }
  }
}
