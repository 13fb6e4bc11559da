/**
 * The terminal: tabs of shells (the other end is `widgets/terminal.py`). A bundle of its own, because xterm.js is
 * large; it is fetched when a terminal is first shown.
 */
import xterm from "@xterm/xterm/css/xterm.css";
import { h, style, visible } from "./dom";
import { button, Frame, toggle, toolbar } from "./frame";
import css from "./terminal.css";
import { coreOf } from "./mount";
import { light, onLight } from "./terminal_light";
import { remembered, remember } from "./terminal_memory";
import { Find } from "./terminal_find";
import { Offer } from "./terminal_offer";
import { type Around, bytes, Screen, type Told } from "./terminal_screen";
import { Sessions } from "./terminal_sessions";
import { Tabs } from "./terminal_tabs";
import { Typing } from "./terminal_typing";
import type { Model, View } from "./types";

const SETTLED = 120;
const RECORD_AFTER = 1000;
const SMALLEST = 8;
const LARGEST = 32;
const LEAVE = "Ctrl+Shift+↑ leaves the terminal";

interface Down {
  tab?: number;
  at?: number;
  tabs?: Told[];
  speaker?: string;
}

interface Replay extends Told {
  missing: number;
  at: number;
}

class TerminalView implements Around {
  private readonly me = Math.random().toString(36).slice(2, 12);
  private readonly frame: Frame;
  private readonly screens = new Map<number, Screen>();
  private readonly typing = new Map<number, Typing>();
  private readonly tabs: Tabs;
  private readonly sessions: Sessions;
  private readonly stage = h("div", { class: "dm-stage" });
  private readonly where = h("div", { class: "dm-where" });
  private readonly offer: Offer;
  private readonly finding = new Find();
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();
  private fontSize = remembered("font", 13, SMALLEST, LARGEST);
  private spoken = remembered("spoken", 0, 0, 1) === 1;
  private speaker = "";
  private active = 0;

  constructor(private readonly view: View) {
    style("dm-style-xterm", xterm, view.el);
    this.frame = new Frame(view, "dm-terminal", "Terminal of the sandbox", css);
    const { line, signal } = this.frame;
    this.tabs = new Tabs({
      choose: (tab) => this.choose(tab, true),
      close: (tab) => this.closeTab(tab),
      rename: (tab) => this.rename(tab),
    });
    this.sessions = new Sessions(line, (session) => void this.join(session), (error) => this.frame.failed(error));
    this.offer = new Offer(this.frame, () => this.recover());
    this.frame.build(this.bar(), this.sessions.element, this.finding.element, this.stage, this.where, this.offer.element);
    this.frame.onStanding = (now) => {
      if (now.state === "started") void this.awake();
    };
    this.frame.onBack = () => void this.begin();
    this.listen(view.model, signal);
    void this.begin();
  }

  private bar(): HTMLElement {
    const bar = toolbar("Terminal",
      this.tabs.element,
      button("+", "New shell", () => void this.add()),
      h("span", { class: "dm-gap" }),
      button("Copy", "Copy what is selected", () => this.screen?.copy()),
      button("Find", "Find in what was printed (Ctrl+F)", () => this.find()),
      button("A−", "Smaller letters", () => this.letters(-1)),
      button("A+", "Larger letters", () => this.letters(1)),
      toggle("Screen reader", "Let a screen reader read the screen", this.spoken, (on) => {
        this.spoken = on;
        remember("spoken", on ? 1 : 0);
        this.look();
      }),
      button("☰", "Other terminals of the sandbox", () => void this.sessions.toggle()),
    );
    for (const one of bar.querySelectorAll<HTMLElement>(":scope > button")) one.setAttribute("aria-label", one.title);
    return bar;
  }

  private listen(model: Model, signal: AbortSignal): void {
    const down = (message: Down, buffers: DataView[] = []) => this.down(message, buffers);
    // What was offered cannot be had any more from a kernel that is gone.
    const lives = () => {
      if (!this.frame.alive) this.frame.ask.close();
    };
    model.on("msg:custom", down);
    this.view.control.on("comm_live_update", lives);
    const resized = new ResizeObserver(() => this.later("fit", SETTLED, () => this.fit()));
    resized.observe(this.stage);
    onLight(() => this.look(), signal);
    this.stage.addEventListener("focusin", () => this.speak());
    signal.addEventListener("abort", () => {
      model.off("msg:custom", down);
      this.view.control.off("comm_live_update", lives);
      resized.disconnect();
      for (const timer of this.timers.values()) clearTimeout(timer);
      for (const screen of this.screens.values()) screen.dispose();
    });
  }

  // -- the kernel ----------------------------------------------------------------------------------------------------

  private async begin(): Promise<void> {
    this.say("Connecting …");
    const fresh = await this.attach();
    if (fresh === undefined) return;
    if (fresh) await this.add(true);
    else this.say("");
  }

  /** Have the tabs, or one of them, with what is kept. Returns whether there never was one. */
  private async attach(tab?: number): Promise<boolean | undefined> {
    try {
      const { value, buffers } = await this.frame.line.call("attach", { view: this.me, ...(tab === undefined ? {} : { tab }) });
      this.speaker = String(value.speaker);
      const told = value.tabs as unknown as Replay[];
      told.forEach((one, at) => {
        const screen = this.screens.get(one.id) ?? this.make(one);
        screen.told = one;
        screen.replay(one.missing, one.at, bytes(buffers[2 * at]), bytes(buffers[2 * at + 1]));
      });
      this.draw();
      return value.fresh === true;
    } catch (error) {
      this.frame.failed(error);
      return undefined;
    }
  }

  private down(message: Down, buffers: DataView[]): void {
    if (typeof message.tab === "number" && typeof message.at === "number") {
      this.screens.get(message.tab)?.feed(message.at, bytes(buffers[0]));
    } else if (Array.isArray(message.tabs)) {
      this.speaker = String(message.speaker);
      const there = new Set(message.tabs.map((one) => one.id));
      for (const one of message.tabs) {
        const screen = this.screens.get(one.id);
        if (screen) screen.told = one;
        else this.make(one).replay(0, 0, new Uint8Array(), new Uint8Array());
      }
      for (const [id, screen] of this.screens) {
        if (there.has(id)) continue;
        screen.dispose();
        this.screens.delete(id);
        this.typing.delete(id);
      }
      this.draw();
    }
  }

  private make(told: Told): Screen {
    const screen = new Screen(told, this);
    this.screens.set(told.id, screen);
    this.typing.set(told.id, new Typing(this.frame.line, told.id, (error) => this.frame.failed(error)));
    screen.host.id = this.tabs.panel(told.id);
    screen.host.setAttribute("role", "tabpanel");
    this.stage.append(screen.host);
    return screen;
  }

  private async call(name: string, given: Record<string, unknown>): Promise<Record<string, unknown> | undefined> {
    try {
      return (await this.frame.line.call(name, { view: this.me, ...given })).value;
    } catch (error) {
      this.frame.failed(error);
      return undefined;
    }
  }

  /** The sandbox runs again: what had ended with it begins anew. */
  private async awake(): Promise<void> {
    if (this.screens.size === 0) await this.add(true);
    if (!this.speaks()) return;
    const cut = [...this.screens.values()].filter((one) => one.told.state === "cut");
    await Promise.all(cut.map((one) => this.call("reconnect", { tab: one.told.id })));
    const now = this.screen;
    if (now?.told.state === "stopped" || (now?.told.state === "ended" && cut.includes(now))) await this.restart();
  }

  // -- tabs ----------------------------------------------------------------------------------------------------------

  private get screen(): Screen | undefined {
    return this.screens.get(this.active);
  }

  private size(): { cols: number; rows: number } {
    const now = this.screen?.proposed();
    if (now) return now;
    // Nothing is shown yet: a terminal that is never used is measured in its place.
    const probe = new Screen({ id: 0, name: "", state: "opening", said: "", code: null, cols: 0, rows: 0 }, this);
    this.stage.append(probe.host);
    probe.open();
    const size = probe.proposed() ?? { cols: 80, rows: 24 };
    probe.dispose();
    return size;
  }

  private async add(first = false): Promise<void> {
    this.say("Opening a shell …");
    const value = await this.call("open", { first, ...this.size() });
    if (value === undefined) return;
    this.say("");
    if (typeof value.tab === "number" && value.tab > 0) this.choose(value.tab, !first);
  }

  private async join(session: string): Promise<void> {
    const value = await this.call("join", { session, ...this.size() });
    if (typeof value?.tab === "number") this.choose(value.tab, true);
  }

  private choose(tab: number, focus: boolean): void {
    this.active = tab;
    this.draw();
    if (focus) this.screen?.terminal.focus();
  }

  private closeTab(tab: number): void {
    const close = () => {
      void this.call("close_tab", { tab });
      this.tabs.focus();
    };
    const screen = this.screens.get(tab);
    if (screen?.told.state !== "running") close();
    else this.frame.ask.confirm(`Close ${visible(screen.told.name)} and end what runs in it?`, "Close", close);
  }

  private rename(tab: number): void {
    const screen = this.screens.get(tab);
    if (screen === undefined) return;
    this.frame.ask.text("Name of the tab", screen.told.name, "Rename", (name) => {
      if (name.trim()) void this.call("rename", { tab, name: name.trim() });
      this.tabs.focus();
    });
  }

  private async restart(): Promise<void> {
    this.say("Opening a shell …");
    if ((await this.call("restart", { tab: this.active, ...this.size() })) !== undefined) {
      this.say("");
      this.screen?.terminal.focus();
    }
  }

  // -- around a screen -----------------------------------------------------------------------------------------------

  speaks(): boolean {
    return this.speaker === this.me;
  }

  typed(tab: number, data: Uint8Array): void {
    const state = this.screens.get(tab)?.told.state;
    if (!this.frame.alive) return;
    if (state === "ended" || state === "stopped" || state === "cut") {
      if (data.length === 1 && data[0] === 13) this.recover();
      return;
    }
    this.speak();
    this.typing.get(tab)?.add(data);
  }

  shown(tab: number, at: number): void {
    if (this.frame.alive) this.view.control.send({ shown: [[tab, at]] });
  }

  lostPlace(tab: number): void {
    void this.attach(tab);
  }

  changed(tab: number): void {
    if (tab !== this.active) return;
    this.drawWhere();
    this.later("record", RECORD_AFTER, () => this.record());
  }

  leave(): void {
    this.tabs.focus();
  }

  find(): void {
    if (this.screen) this.finding.open(this.screen);
  }

  askPaste(question: string, act: () => void): void {
    this.frame.ask.confirm(question, "Paste", act);
  }

  askLink(address: string): void {
    this.frame.ask.confirm(`Open ${visible(address).slice(0, 500)} ?`, "Open", () =>
      window.open(address, "_blank", "noopener,noreferrer"));
  }

  options(): { fontSize: number; screenReaderMode: boolean } {
    return { fontSize: this.fontSize, screenReaderMode: this.spoken };
  }

  /** This view is in use: its size counts, and it answers programs. */
  private speak(): void {
    if (!this.frame.alive || this.speaks()) return;
    this.speaker = this.me;
    void this.call("speak", {}).then(() => this.fit());
  }

  private record(): void {
    if (!this.frame.alive || !this.speaks() || this.screen === undefined) return;
    void this.frame.line.call("screen", { tab: this.active, lines: this.screen.lines() }).catch(() => undefined);
  }

  // -- drawing -------------------------------------------------------------------------------------------------------

  private draw(): void {
    const ids = [...this.screens.keys()];
    if (!this.screens.has(this.active)) this.active = ids[ids.length - 1] ?? 0;
    if (!this.finding.isOn(this.screen)) this.finding.leave();
    this.tabs.draw([...this.screens.values()].map((one) => one.told), this.active);
    for (const [id, screen] of this.screens) {
      screen.host.hidden = id !== this.active;
      if (id === this.active && !screen.host.dataset.opened) {
        screen.open();
        screen.host.dataset.opened = "true";
        screen.look(light());
      }
      screen.host.setAttribute("aria-labelledby", this.tabs.label(id));
    }
    this.fit();
    this.drawState();
    this.drawWhere();
  }

  private drawState(): void {
    const told = this.screen?.told;
    this.stage.dataset.state = told?.state ?? "none";
    this.offer.draw(told);
  }

  private recover(): void {
    const state = this.screen?.told.state;
    this.frame.ask.close();
    if (state === "ended" || state === "stopped") void this.restart();
    else if (state === "cut") void this.call("reconnect", { tab: this.active });
  }

  private drawWhere(): void {
    const screen = this.screen;
    const { cols, rows } = screen?.terminal ?? { cols: 0, rows: 0 };
    const title = screen?.title ? `${screen.title} · ` : "";
    const told = screen ? `${title}${cols}×${rows} · ${LEAVE}` : "";
    if (this.where.textContent !== told) this.where.textContent = told;
  }

  private fit(): void {
    const screen = this.screen;
    if (screen === undefined || !this.frame.alive) return;
    screen.open();
    const size = screen.proposed();
    if (this.speaks() && size !== undefined) {
      screen.resize(size.cols, size.rows);
      if (size.cols !== screen.told.cols || size.rows !== screen.told.rows) {
        this.later("resize", SETTLED, () => void this.call("resize", { tab: screen.told.id, ...size }));
      }
    } else if (!this.speaks()) screen.resize(screen.told.cols, screen.told.rows);
    this.drawWhere();
  }

  private letters(by: number): void {
    this.fontSize = Math.min(LARGEST, Math.max(SMALLEST, this.fontSize + by));
    remember("font", this.fontSize);
    this.look();
    this.fit();
  }

  private look(): void {
    for (const screen of this.screens.values()) screen.look(light());
  }

  private say(text: string, error = false): void {
    this.frame.say(text, error);
  }

  private later(name: string, milliseconds: number, act: () => void): void {
    clearTimeout(this.timers.get(name));
    this.timers.set(name, setTimeout(act, milliseconds));
  }
}

export default coreOf({ terminal: (view) => new TerminalView(view) });
