/**
 * A list of any number of rows of any heights, of which only those in sight are elements.
 *
 * The scroll bar stands for all rows, up to as many pixels as browsers can lay out. A place on it is a fraction: at
 * the fraction t the row t of the way through the log is drawn t of the way down the box. So the first row is at the
 * top at the beginning, the last at the bottom at the end, whatever their heights; and for rows of one height that
 * fit it is exactly what scrolling does.
 *
 * Whoever scrolls up stops following: the list then ends where it ended, so that nothing moves under the eyes, and
 * tells how much has come since.
 */
import { h, oncePerFrame } from "./dom";
import { element, empty, type Row } from "./log_rows";

export const LINE = 18;
/** Pixels of the longest scroll bar; Firefox has the lowest limit. */
const TALLEST = 16_000_000;
/** Rows kept beside those drawn; rows asked for at once; milliseconds until an unanswered question is asked again. */
const KEPT = 6000;
const CHUNK = 200;
const PATIENCE = 5000;

export interface Fetch {
  (from: number, count: number): void;
}

export class LogList {
  readonly box: HTMLElement;
  private readonly space = h("div", { class: "dm-space", role: "presentation" });
  private readonly window = h("div", { class: "dm-window", role: "presentation" });
  private readonly rows = new Map<number, Row>();
  private readonly drawn = new Map<number, HTMLElement>();
  private readonly asked = new Map<number, number>();
  private opened: Row[] = [];
  private first = 0;
  private end = 0;
  /** Where the list ends for who does not follow. */
  private frozen = 0;
  private top = 0;
  following = true;
  current = -1;
  /** The name of a source, or "" where it need not be shown. */
  nameOf: (source: number) => string = () => "";
  onFollow: () => void = () => {};
  onPainted: () => void = () => {};

  constructor(
    private readonly fetch: Fetch,
    signal: AbortSignal,
  ) {
    this.space.append(this.window);
    this.box = h("div", {
      class: "dm-lines",
      role: "log",
      tabindex: 0,
      "aria-live": "off",
      "aria-label": "Log",
      "data-lm-suppress-shortcuts": "true",
    }, this.space);
    this.box.addEventListener("scroll", () => this.scrolled(), { signal });
    this.box.addEventListener("wheel", (event) => this.wheel(event), { signal, passive: false });
    const resized = new ResizeObserver(() => this.draw());
    resized.observe(this.box);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  /** How many rows came since whoever reads stopped to follow. */
  get news(): number {
    return this.following ? 0 : Math.max(0, this.end - this.frozen);
  }

  /** The row at the top of the box. */
  get here(): number {
    for (const [place, one] of this.drawn) {
      if (one.offsetTop + this.window.offsetTop + one.offsetHeight > this.box.scrollTop) return place;
    }
    return this.first;
  }

  private get last(): number {
    return this.following ? this.end : Math.min(this.frozen, this.end);
  }

  private get count(): number {
    return Math.max(0, this.last - this.first) + (this.following ? this.opened.length : 0);
  }

  // -- what there is ---------------------------------------------------------------------------------------------

  /** Forget everything: something else is shown from now on. */
  reset(): void {
    this.rows.clear();
    this.drawn.clear();
    this.asked.clear();
    this.window.replaceChildren();
    this.following = true;
    this.current = -1;
  }

  /** So many rows there are, and lines that have not ended. */
  extent(first: number, end: number, opened: Row[]): void {
    this.first = first;
    this.end = end;
    this.opened = opened;
    this.draw();
  }

  /** Rows to show. */
  take(rows: Row[]): void {
    for (const one of rows) {
      this.rows.delete(one.place);
      this.rows.set(one.place, one);
      const old = this.drawn.get(one.place);
      if (old?.classList.contains("dm-missing")) this.drawn.delete(one.place);
    }
    for (const place of this.rows.keys()) {
      if (this.rows.size <= KEPT) break;
      if (!this.drawn.has(place)) this.rows.delete(place);
    }
    this.draw();
  }

  /** A question was answered, well or not. */
  answered(from: number): void {
    this.asked.delete(from);
    this.draw();
  }

  /** Rows look different from now on (names of sources, what is found). */
  redraw(): void {
    this.drawn.clear();
    this.draw();
  }

  // -- where the reader is ---------------------------------------------------------------------------------------

  /** Show the newest, and stay there. */
  follow(): void {
    this.following = true;
    this.draw();
    this.onFollow();
  }

  stay(): void {
    if (!this.following) return;
    this.frozen = this.end;
    this.following = false;
    this.onFollow();
  }

  /** Bring a row to the middle of the box. */
  show(place: number): void {
    this.stay();
    this.current = place;
    this.frozen = Math.max(this.frozen, place + 1);
    this.size();
    const reach = this.reach();
    this.jump((reach * (place + 0.5 - this.first)) / Math.max(1, this.count));
    this.redraw();
  }

  /** Scroll by rows. */
  by(rows: number): void {
    if (rows < 0) this.stay();
    this.jump(this.box.scrollTop + rows * LINE * this.scale());
    if (rows > 0 && this.box.scrollTop >= this.reach() - 2) this.follow();
    this.draw();
  }

  toTop(): void {
    this.stay();
    this.jump(0);
    this.draw();
  }

  get page(): number {
    return Math.max(1, Math.floor(this.box.clientHeight / LINE) - 1);
  }

  private jump(top: number): void {
    this.box.scrollTop = this.top = Math.max(0, Math.min(top, this.reach()));
  }

  private reach(): number {
    return Math.max(0, this.space.offsetHeight - this.box.clientHeight);
  }

  /** Pixels of the scroll bar for a pixel of rows. */
  private scale(): number {
    return Math.min(1, TALLEST / Math.max(1, this.count * LINE));
  }

  private scrolled(): void {
    const top = this.box.scrollTop;
    if (top < this.top - 1) this.stay();
    this.top = top;
    if (!this.following && top >= this.reach() - 2) this.follow();
    this.draw();
  }

  /** In a list that is taller than a scroll bar can be, a turn of the wheel is still some lines. */
  private wheel(event: WheelEvent): void {
    const scale = this.scale();
    if (scale > 0.9 || event.ctrlKey || event.deltaY === 0) return;
    event.preventDefault();
    this.by(((event.deltaMode === 1 ? LINE : 1) * event.deltaY) / LINE);
  }

  // -- drawing ---------------------------------------------------------------------------------------------------

  readonly draw = oncePerFrame(() => {
    this.paint();
    this.onPainted();
  });

  private size(): void {
    this.space.style.height = `${Math.min(TALLEST, this.count * LINE)}px`;
  }

  private paint(): void {
    const height = this.box.clientHeight;
    if (height === 0) return;
    if (this.following && this.selecting()) this.stay();
    this.size();
    const reach = this.reach();
    if (this.following && this.box.scrollTop < reach) this.jump(reach);
    const t = reach > 0 ? Math.min(1, this.box.scrollTop / reach) : 0;
    const anchor = this.first + t * this.count;
    const around = Math.ceil(height / LINE) + 3;
    const from = Math.max(this.first, Math.floor(anchor - t * around) - 2);
    const to = Math.min(this.first + this.count, Math.ceil(anchor + (1 - t) * around) + 2);
    this.fill(from, to);
    this.want(from, Math.min(to, this.last));
    this.position(anchor, to, t * height);
  }

  /** Put the point of the rows that `anchor` names so many pixels below the top of the box. */
  private position(anchor: number, to: number, below: number): void {
    const whole = Math.floor(anchor);
    const at = whole >= to ? undefined : this.drawn.get(whole);
    const inside = at === undefined
      ? (whole >= to ? this.window.offsetHeight : 0)
      : at.offsetTop + (anchor - whole) * at.offsetHeight;
    this.window.style.top = `${Math.round(this.box.scrollTop + below - inside)}px`;
  }

  private fill(from: number, to: number): void {
    const opened = this.last;
    for (const [place, one] of this.drawn) {
      if (place < from || place >= to || place >= opened || one.dataset.open) {
        one.remove();
        this.drawn.delete(place);
      }
    }
    let next = this.window.firstChild;
    for (let place = from; place < to; place += 1) {
      let one = this.drawn.get(place);
      if (one === undefined) {
        one = this.make(place, opened);
        this.drawn.set(place, one);
        this.window.insertBefore(one, next);
      } else if (one !== next) {
        this.window.insertBefore(one, next);
      } else {
        next = one.nextSibling;
      }
    }
    while (next !== null) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  private make(place: number, opened: number): HTMLElement {
    const row = place >= opened ? this.opened[place - opened] : this.rows.get(place);
    const made = row === undefined ? empty(place) : element(row, this.nameOf(row.source));
    if (place >= opened) made.dataset.open = "true";
    if (place === this.current) made.dataset.current = "true";
    return made;
  }

  /** Ask for rows that are not here. */
  private want(from: number, to: number): void {
    const now = performance.now();
    for (let place = from; place < to; place += 1) {
      if (this.rows.has(place)) continue;
      const start = Math.max(this.first, Math.floor(place / CHUNK) * CHUNK);
      // A chunk whose beginning is here (it was too many bytes for one answer) is asked for from what is missing.
      const key = this.rows.has(start) ? place : start;
      const since = this.asked.get(key);
      if (since === undefined || now - since > PATIENCE) {
        if (this.asked.size >= 4) return;
        this.asked.set(key, now);
        this.fetch(key, CHUNK);
      }
      place = Math.max(place, start + CHUNK - 1);
    }
  }

  /** Whether the reader has marked something here: then it must not move away. */
  private selecting(): boolean {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.anchorNode !== null
      && this.box.contains(selection.anchorNode);
  }

  /** Rows that are here, of those asked for. */
  known(from: number, to: number): Row[] {
    const found: Row[] = [];
    for (let place = from; place < to; place += 1) {
      const one = this.rows.get(place);
      if (one !== undefined) found.push(one);
    }
    return found;
  }
}
