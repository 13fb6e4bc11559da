/**
 * The terminal: tabs of shells (the other end is `widgets/terminal.py`). A bundle of its own, because xterm.js is
 * large; it is fetched when a terminal is first shown.
 */
import xterm from "@xterm/xterm/css/xterm.css";
import { Ask } from "./ask";
import { h, style, visible } from "./dom";
import { CallFailed, Line } from "./line";
import css from "./terminal.css";
import { remembered, remember } from "./terminal_memory";
import { type Around, Screen, type Told } from "./terminal_screen";
import { Sessions } from "./terminal_sessions";
import { Tabs } from "./terminal_tabs";
import { Typing } from "./terminal_typing";
import theme from "./theme.css";
import type { Core, Model, View } from "./types";

const SETTLED = 120;
const RECORD_AFTER = 1000;
const SMALLEST = 8;
const LARGEST = 32;
const BUSY = "The kernel is busy with a cell and takes no keys until it ends. ■ interrupts the cell.";
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
  private readonly line: Line;
  private readonly screens = new Map<number, Screen>();
  private readonly typing = new Map<number, Typing>();
  private readonly tabs: Tabs;
  private readonly sessions: Sessions;
  private readonly ask = new Ask();
  private readonly stage = h("div", { class: "dm-stage" });
  private readonly status = h("div", { class: "dm-status", role: "status", "aria-live": "polite" });
  private readonly where = h("div", { class: "dm-where" });
  private readonly box: HTMLElement;
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();
  private fontSize = remembered("font", 13, SMALLEST, LARGEST);
  private spoken = remembered("spoken", 0, 0, 1) === 1;
  private speaker = "";
  private active = 0;
  private over = false;

  constructor(private readonly view: View) {
    const { model, control, el, signal } = view;
    style("dm-style-xterm", xterm, el);
    style("dm-style-terminal", css, el);
    this.line = new Line(model, control, signal);
    this.line.onBusy = (busy) => this.say(busy ? BUSY : "");
    this.tabs = new Tabs({
      choose: (tab) => this.choose(tab, true),
      close: (tab) => this.closeTab(tab),
      rename: (tab) => this.rename(tab),
    });
    this.sessions = new Sessions(this.line, (session) => void this.join(session), (error) => this.failed(error));
    this.box = h("div", { class: "dm-widget dm-terminal" },
      this.toolbar(), this.ask.element, this.sessions.element, this.stage, this.status, this.where);
    el.append(this.box);
    this.hideRecord(model, el, signal);
    this.listen(model, signal);
    void this.begin();
  }

  private toolbar(): HTMLElement {
    const button = (text: string, title: string, act: (event: MouseEvent) => void) =>
      h("button", { title, "aria-label": title, onclick: act }, text);
    const spoken = button("Screen reader", "Let a screen reader read the screen", () => {
      this.spoken = !this.spoken;
      spoken.setAttribute("aria-pressed", String(this.spoken));
      remember("spoken", this.spoken ? 1 : 0);
      this.look();
    });
    spoken.setAttribute("aria-pressed", String(this.spoken));
    return h("div", { class: "dm-bar dm-terminal-bar" },
      this.tabs.element,
      button("+", "New shell", () => void this.add()),
      h("span", { class: "dm-gap" }),
      button("Copy", "Copy what is selected", () => this.screen?.copy()),
      button("A−", "Smaller letters", () => this.letters(-1)),
      button("A+", "Larger letters", () => this.letters(1)),
      spoken,
      button("☰", "Other terminals of the sandbox", () => void this.sessions.toggle()),
    );
  }

  private listen(model: Model, signal: AbortSignal): void {
    const down = (message: Down, buffers: DataView[] = []) => this.down(message, buffers);
    const ended = () => this.end();
    model.on("msg:custom", down);
    model.on("comm:close", ended);
    model.on("comm_live_update", ended);
    const resized = new ResizeObserver(() => this.later("fit", SETTLED, () => this.fit()));
    resized.observe(this.stage);
    const light = matchMedia("(prefers-color-scheme: light)");
    const look = () => this.look();
    light.addEventListener("change", look);
    const themed = new MutationObserver(look);
    for (const one of [document.body, document.documentElement]) {
      themed.observe(one, { attributes: true, attributeFilter: ["data-jp-theme-light", "class", "data-theme", "theme"] });
    }
    this.stage.addEventListener("focusin", () => this.speak());
    signal.addEventListener("abort", () => {
      model.off("msg:custom", down);
      model.off("comm:close", ended);
      model.off("comm_live_update", ended);
      light.removeEventListener("change", look);
      resized.disconnect();
      themed.disconnect();
      for (const timer of this.timers.values()) clearTimeout(timer);
      for (const screen of this.screens.values()) screen.dispose();
    });
  }

  /** The notebook's own record is beside the view; while there is a view nobody needs it. */
  private hideRecord(model: Model, el: HTMLElement, signal: AbortSignal): void {
    const record = String(((model.get("view") ?? {}) as { record?: string }).record ?? "");
    if (!/^dm-record-[0-9a-f]+$/.test(record)) return;
    const sheet = h("style", {}, `.${record}{display:none}`);
    (el.ownerDocument ?? document).head.append(sheet);
    signal.addEventListener("abort", () => sheet.remove());
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
      const { value, buffers } = await this.line.call("attach", { view: this.me, ...(tab === undefined ? {} : { tab }) });
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
      this.failed(error);
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
    this.typing.set(told.id, new Typing(this.line, told.id, (error) => this.failed(error)));
    screen.host.id = this.tabs.panel(told.id);
    screen.host.setAttribute("role", "tabpanel");
    this.stage.append(screen.host);
    return screen;
  }

  private async call(name: string, given: Record<string, unknown>): Promise<Record<string, unknown> | undefined> {
    try {
      return (await this.line.call(name, { view: this.me, ...given })).value;
    } catch (error) {
      this.failed(error);
      return undefined;
    }
  }

  private failed(error: unknown): void {
    const failure = error instanceof CallFailed ? error : new CallFailed("failed", String(error), "");
    this.say(`${failure.message}${failure.hint ? ` (${failure.hint})` : ""}`, true);
    if (failure.code === "none" || failure.code === "stopped") {
      const what = failure.code === "none" ? "Create a sandbox" : "Start it";
      this.ask.offer(failure.message, what, () => void this.startSandbox());
    }
  }

  private async startSandbox(): Promise<void> {
    this.say("Starting the sandbox …");
    if ((await this.call("start", {})) === undefined) return;
    this.say("");
    if (this.screens.size === 0) await this.add(true);
    else await this.restart();
  }

  private end(): void {
    if (this.over) return;
    this.over = true;
    this.ask.close();
    for (const screen of this.screens.values()) screen.terminal.options.disableStdin = true;
    this.box.dataset.over = "true";
    this.say("The kernel has ended or was restarted, or this terminal was closed: its shells have ended. "
      + "Run the cell again for a new one.", true);
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
    else this.ask.confirm(`Close ${visible(screen.told.name)} and end what runs in it?`, "Close", close);
  }

  private rename(tab: number): void {
    const screen = this.screens.get(tab);
    if (screen === undefined) return;
    this.ask.text("Name of the tab", screen.told.name, "Rename", (name) => {
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
    if (this.over) return;
    if (state === "ended" || state === "stopped" || state === "cut") {
      if (data.length === 1 && data[0] === 13) this.recover();
      return;
    }
    this.speak();
    this.typing.get(tab)?.add(data);
  }

  shown(tab: number, at: number): void {
    if (!this.over) this.view.control.send({ shown: [[tab, at]] });
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

  askPaste(question: string, act: () => void): void {
    this.ask.confirm(question, "Paste", act);
  }

  askLink(address: string): void {
    this.ask.confirm(`Open ${visible(address).slice(0, 500)} ?`, "Open", () =>
      window.open(address, "_blank", "noopener,noreferrer"));
  }

  options(): { fontSize: number; screenReaderMode: boolean } {
    return { fontSize: this.fontSize, screenReaderMode: this.spoken };
  }

  /** This view is in use: its size counts, and it answers programs. */
  private speak(): void {
    if (this.over || this.speaks()) return;
    this.speaker = this.me;
    void this.call("speak", {}).then(() => this.fit());
  }

  private record(): void {
    if (this.over || !this.speaks() || this.screen === undefined) return;
    void this.line.call("screen", { tab: this.active, lines: this.screen.lines() }).catch(() => undefined);
  }

  // -- drawing -------------------------------------------------------------------------------------------------------

  private draw(): void {
    const ids = [...this.screens.keys()];
    if (!this.screens.has(this.active)) this.active = ids[ids.length - 1] ?? 0;
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
    if (told === undefined || told.state === "running" || told.state === "opening") {
      if (this.offered) this.ask.close();
      this.offered = "";
      return;
    }
    const key = `${told.id} ${told.state} ${told.said}`;
    if (this.offered === key || told.state === "lost") {
      if (told.state === "lost") this.say(told.said, true);
      return;
    }
    this.offered = key;
    const words = { ended: "Restart shell", stopped: "Start the sandbox", cut: "Reconnect" };
    this.say(told.said, true);
    this.ask.offer(told.said, words[told.state], () => this.recover());
  }

  private offered = "";

  private recover(): void {
    const state = this.screen?.told.state;
    this.ask.close();
    if (state === "ended") void this.restart();
    else if (state === "stopped") void this.startSandbox();
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
    if (screen === undefined || this.over) return;
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
    this.status.textContent = visible(text);
    this.status.dataset.kind = error ? "error" : "";
  }

  private later(name: string, milliseconds: number, act: () => void): void {
    clearTimeout(this.timers.get(name));
    this.timers.set(name, setTimeout(act, milliseconds));
  }
}

function light(): boolean {
  const told = document.body.dataset.jpThemeLight;
  if (told !== undefined) return told !== "false";
  if (document.body.classList.contains("vscode-dark") || document.documentElement.dataset.theme === "dark") return false;
  return matchMedia("(prefers-color-scheme: light)").matches;
}

function bytes(view: DataView | undefined): Uint8Array {
  if (view === undefined) return new Uint8Array();
  return new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);
}

const core: Core = {
  mount(_kind, view) {
    style("dm-style", theme, view.el);
    new TerminalView(view);
  },
};

export default core;
