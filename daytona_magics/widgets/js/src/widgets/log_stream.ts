/**
 * Logs as they grow. The page holds what it draws; the kernel holds what the rows are, which of them fit, and where
 * something is found in them (the other end is `widgets/log_stream.py`).
 *
 * What is new comes a few times in a second as one small message, which is acknowledged once it is drawn. Rows that
 * somebody scrolls to are asked for.
 */
import { h, size, visible } from "./dom";
import { button, Frame, toolbar, toggle } from "./frame";
import { LogList } from "./log_list";
import { type Row, row, type WireRow } from "./log_rows";
import { Save } from "./log_save";
import { LogSources, type SourceState } from "./log_sources";
import css from "./log_stream.css";
import type { View } from "./types";

interface News {
  push: number;
  first: number;
  end: number;
  lines: number;
  clears: number;
  dropped: [number, number, string];
  behind: number;
  found: number | null;
  slow: number;
  sources: SourceState[];
  open: [number, number, string, Row["styles"], Row["marks"]][];
  rows: WireRow[];
}

export class LogStream {
  private readonly view = Math.random().toString(36).slice(2, 10);
  private readonly frame: Frame;
  private readonly list: LogList;
  private readonly sources: LogSources;
  private readonly save: Save;
  private readonly match = field("Filter", "Show only lines that hold this");
  private readonly find = field("Find", "Walk through lines that hold this");
  private readonly count = h("span", { class: "dm-count", "aria-live": "polite" });
  private readonly lines = h("span", { class: "dm-count dm-lines-count" });
  private readonly dropped = h("div", { class: "dm-dropped", hidden: true });
  private readonly nothing = h("div", { class: "dm-nothing", hidden: true });
  private readonly newer = button("", "Show the newest lines and follow", () => this.follow());
  private readonly spoken = h("div", { class: "dm-hidden", "aria-live": "polite", "aria-atomic": "true" });
  private readonly on = { regex: false, case: false, out: true, err: true, announce: false };
  private last: News | undefined;
  /** Whether the kernel knows what this view wants; until then it is told what anybody is. */
  private known = false;
  private pushed = 0;
  private nth = 0;
  private spokenAt = 0;
  private looks = 0;
  private looked = "";

  constructor(view: View) {
    this.frame = new Frame(view, "dm-log", "Log of the sandbox", css);
    const { signal } = this.frame;
    this.list = new LogList((from, count) => void this.fetch(from, count), signal);
    this.list.nameOf = (source) => this.sources.nameOf(source);
    this.list.onFollow = () => this.told();
    this.list.onPainted = () => this.acknowledge(view);
    this.sources = new LogSources(this.frame, () => void this.look());
    this.save = new Save(this.frame, (from, count) => this.rows(from, count));
    this.newer.classList.add("dm-newer");
    this.newer.hidden = true;
    this.sources.element.append(this.lines);
    this.frame.build(this.tools(), this.sources.element, this.dropped,
      h("div", { class: "dm-lines-frame" }, this.list.box, this.nothing, this.newer, this.spoken));
    this.listen(view);
    this.frame.onBack = () => void this.look(false, true);
    void this.look();
  }

  // -- tools -----------------------------------------------------------------------------------------------------

  private tools(): HTMLElement {
    const soon = later(250);
    this.match.addEventListener("input", () => soon(() => void this.look()));
    this.find.addEventListener("input", () => soon(() => void this.look(true)));
    this.find.addEventListener("keydown", (event) => {
      if (event.key === "Enter") void this.step(event.shiftKey ? -1 : 1);
    });
    for (const one of [this.match, this.find]) {
      one.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        this.list.box.focus({ preventScroll: true });
      });
    }
    const flag = (text: string, title: string, name: keyof typeof this.on) =>
      toggle(text, title, this.on[name], (now) => {
        this.on[name] = now;
        if (name !== "announce") void this.look();
      });
    const looks = (text: string, title: string, name: string, on: boolean) =>
      toggle(text, title, on, (now) => {
        this.list.box.dataset[name] = String(now);
        this.list.redraw();
      });
    return toolbar("Log",
      group("dm-grow", this.match),
      group("dm-grow", this.find,
        button("↑", "Previous (Shift+Enter, or N in the log)", () => void this.step(-1)),
        button("↓", "Next (Enter, or n in the log)", () => void this.step(1)), this.count),
      group("", flag(".*", "Filter and Find are regular expressions", "regex"),
        flag("Aa", "Capitals matter in Filter and Find", "case")),
      group("", flag("stdout", "Show standard output", "out"), flag("stderr", "Show standard error", "err")),
      group("", looks("Wrap", "Break long lines", "wrap", false), looks("Times", "Show when lines came", "times", false),
        flag("Announce", "Read new lines out to a screen reader", "announce")),
      group("",
        button("Clear", "Forget the lines that are here; the sandbox keeps its own", () => void this.clear()),
        button("Copy", "Copy the lines that are marked, or those that fit", () => void this.copy()),
        button("Download", "Save the whole log", (event) => this.save.choose(event, this.last?.sources ?? []))),
    );
  }

  private listen(view: View): void {
    const { signal } = this.frame;
    const heard = (message: Partial<News> & { log?: string }) => {
      if (message.log === this.view || (message.log === "*" && !this.known)) this.take(message as News);
    };
    view.model.on("msg:custom", heard);
    signal.addEventListener("abort", () => view.model.off("msg:custom", heard));
    this.list.box.addEventListener("keydown", (event) => this.key(event), { signal });
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { list } = this;
    const acts: Record<string, () => void> = {
      ArrowDown: () => list.by(1),
      ArrowUp: () => list.by(-1),
      PageDown: () => list.by(list.page),
      " ": () => list.by(event.shiftKey ? -list.page : list.page),
      PageUp: () => list.by(-list.page),
      Home: () => list.toTop(),
      End: () => this.follow(),
      "/": () => this.find.focus(),
      n: () => void this.step(1),
      N: () => void this.step(-1),
    };
    const act = acts[event.key];
    if (act === undefined) return;
    act();
    event.preventDefault();
    event.stopPropagation();
  }

  // -- the kernel ------------------------------------------------------------------------------------------------

  /** Say what this view wants to see. */
  private async look(finding = false, anew = false): Promise<void> {
    const kinds = [...(this.on.out ? [1] : []), ...(this.on.err ? [2] : [])];
    const given = {
      view: this.view,
      match: this.match.value,
      find: this.find.value,
      // Without a text to look for they change nothing, and the reader stays where he is.
      regex: this.on.regex && (this.match.value || this.find.value) !== "",
      case: this.on.case && (this.match.value || this.find.value) !== "",
      kinds,
      hidden: this.sources.hidden,
    };
    const wanted = JSON.stringify(given);
    if (wanted === this.looked && !anew) return;
    this.looked = wanted;
    const turn = ++this.looks;
    try {
      const { value } = await this.frame.line.call("look", given);
      if (turn !== this.looks) return;
      this.match.removeAttribute("aria-invalid");
      this.find.removeAttribute("aria-invalid");
      this.frame.say("");
      this.nth = 0;
      this.known = true;
      this.pushed = this.acknowledged = 0;
      this.list.reset();
      this.take(value as unknown as News);
      if (finding && this.find.value) await this.step(1);
    } catch (error) {
      if (turn !== this.looks) return;
      const failure = this.frame.failed(error);
      if (failure.code === "pattern") {
        (finding ? this.find : this.match).setAttribute("aria-invalid", "true");
      }
    }
  }

  private take(news: News): void {
    if (news.push <= this.pushed) return;
    this.pushed = news.push;
    const cleared = this.last !== undefined && news.clears !== this.last.clears;
    this.last = news;
    if (cleared) this.list.reset();
    if (this.sources.take(news.sources)) this.list.redraw();
    const open = news.open.map(([source, kind, text, styles, marks], index) =>
      row([news.end + index, source, kind, 0, text, styles, marks]));
    this.list.extent(news.first, news.end, open);
    this.list.take(news.rows.map(row));
    this.told();
    this.announce(news);
  }

  private acknowledge(view: View): void {
    if (!this.known || this.pushed === 0) return;
    const push = this.pushed;
    if (push === this.acknowledged) return;
    this.acknowledged = push;
    // Not by Line.call: nobody waits for an answer, and a busy kernel need not be told about twenty times a second.
    const given = { view: this.view, push, following: this.list.following };
    view.control.send({ call: `${this.view}-ack`, name: "ack", with: given });
  }
  private acknowledged = 0;

  private async fetch(from: number, count: number): Promise<void> {
    try {
      this.list.take(await this.rows(from, count));
      this.list.answered(from);
    } catch (error) {
      // Asked for again only after a while: what failed now would fail at once again.
      if (this.frame.failed(error).code === "view") void this.look(false, true);
    }
  }

  private async rows(from: number, count: number): Promise<Row[]> {
    const { value } = await this.frame.line.call("rows", { view: this.view, from, count });
    return (value["rows"] as WireRow[]).map(row);
  }

  /** Go to the next line in which something is found, or to the one before. */
  private async step(step: number): Promise<void> {
    if (!this.find.value) return;
    const from = this.list.current >= 0 ? this.list.current : this.list.here - (step > 0 ? 1 : 0);
    const given = { view: this.view, from: Math.max(0, from), step };
    await this.frame.act(async () => {
      const { value } = await this.frame.line.call("find", given);
      this.nth = Number(value["nth"]);
      if (typeof value["place"] === "number") this.list.show(value["place"]);
      this.told();
    });
  }

  private async clear(): Promise<void> {
    await this.frame.act(() => this.frame.line.call("clear"));
  }

  private async copy(): Promise<void> {
    await this.save.copy(this.list.box, this.last?.first ?? 0, this.last?.end ?? 0);
  }

  private follow(): void {
    this.list.follow();
    if (this.last) this.list.extent(this.last.first, this.last.end, []);
  }

  // -- telling the reader ----------------------------------------------------------------------------------------

  private told(): void {
    const news = this.last;
    if (news === undefined) return;
    const fresh = this.list.news;
    this.newer.hidden = this.list.following;
    this.newer.textContent = fresh > 0 ? `${fresh.toLocaleString()} new ${fresh === 1 ? "line" : "lines"} ↓` : "Newest ↓";
    const [gone, bytes, why] = news.dropped;
    this.dropped.hidden = gone === 0;
    this.dropped.textContent = `${gone.toLocaleString()} lines (${size(bytes)}) were dropped here: ${why}.`;
    const shown = news.end - news.first;
    const kept = this.match.value || this.sources.hidden.length || !this.on.out || !this.on.err;
    this.nothing.hidden = shown > 0 || news.open.length > 0;
    this.nothing.textContent = kept ? "No line fits." : news.sources.length > 0 ? "Nothing has come yet."
      : "Nothing is followed. Add … chooses a log.";
    const parts = [kept ? `${shown.toLocaleString()} of ${plural(news.lines)}` : plural(news.lines)];
    if (news.behind > 0) parts.push(`${news.behind.toLocaleString()} still to search`);
    if (news.slow > 0) parts.push(`${news.slow.toLocaleString()} shown because the expression took too long`);
    this.lines.textContent = parts.join(" · ");
    const nth = this.nth > 0 ? `${this.nth.toLocaleString()} of ` : "";
    this.count.textContent = news.found === null ? "" : news.found === 0 ? "none" : `${nth}${news.found.toLocaleString()}`;
  }

  private announce(news: News): void {
    const now = performance.now();
    const last = news.rows.at(-1);
    if (!this.on.announce || last === undefined || now - this.spokenAt < 2000) return;
    this.spokenAt = now;
    this.spoken.textContent = visible(last[4]).slice(0, 300);
  }
}

function plural(lines: number): string {
  return `${lines.toLocaleString()} ${lines === 1 ? "line" : "lines"}`;
}

function field(text: string, title: string): HTMLInputElement {
  return h("input", { type: "search", placeholder: text, "aria-label": text, title, spellcheck: "false", autocomplete: "off" });
}

function group(name: string, ...tools: HTMLElement[]): HTMLElement {
  return h("div", { class: `dm-group ${name}` }, ...tools);
}

/** Calls what it is given last, once nothing was given for so many milliseconds. */
function later(milliseconds: number): (act: () => void) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return (act) => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}
