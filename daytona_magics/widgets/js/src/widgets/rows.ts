/**
 * The rows of a tree that are seen, out of any number: a virtual list with the reader's place in it.
 *
 * The focus stays on the list itself and `aria-activedescendant` names the row, so rows may come and go under the
 * reader's cursor.
 */
import { h, oncePerFrame, size, visible } from "./dom";
import type { Folder, Row } from "./folders";

const ROW = 24;
const SPARE = 8;
let trees = 0;

/** A short mark behind a name, and what it means. */
export interface Mark {
  text: string;
  title: string;
  kind: string;
}

export class Rows {
  readonly element: HTMLElement;
  chosen = 0;
  /** Called for each row that is to be shown and has not come yet. */
  onMissing: (row: Row) => void = () => {};
  /** What an empty tree says. */
  empty: () => string = () => "";
  private readonly id = `dm-tree-${++trees}`;
  private readonly space = h("div", { role: "presentation" });

  constructor(
    private readonly root: () => Folder,
    private readonly marks: (row: Row) => Mark[],
    signal: AbortSignal,
  ) {
    this.element = h("div", { class: "dm-tree", role: "tree", tabindex: 0, "aria-label": "Files of the sandbox" }, this.space);
    this.element.addEventListener("scroll", () => this.draw());
    const resized = new ResizeObserver(() => this.draw());
    resized.observe(this.element);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  /** The row the reader is on. */
  get here(): Row | undefined {
    return this.root().row(this.chosen);
  }

  /** Rows of one screen. */
  get page(): number {
    return Math.max(1, Math.floor(this.element.clientHeight / ROW) - 1);
  }

  /** The row an event happened on. */
  at(event: Event): Row | undefined {
    const place = this.placeAt(event);
    return place === undefined ? undefined : this.root().row(place);
  }

  placeAt(event: Event): number | undefined {
    const element = (event.target as HTMLElement).closest<HTMLElement>(".dm-row");
    return element ? Number(element.dataset.place) : undefined;
  }

  /** The element of the row the reader is on, if it is on the screen. */
  elementHere(): HTMLElement | undefined {
    return this.space.querySelector<HTMLElement>(`[id="${this.id}-${this.chosen}"]`) ?? undefined;
  }

  /** Go to a row and bring it into sight. */
  choose(place: number): void {
    this.chosen = Math.max(0, Math.min(place, this.root().count() - 1));
    const top = this.chosen * ROW;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + ROW > this.element.scrollTop + this.element.clientHeight) {
      this.element.scrollTop = top + ROW - this.element.clientHeight;
    }
    this.paint();
  }

  /** Draw soon, once. */
  readonly draw = oncePerFrame(() => this.paint());

  private paint(): void {
    const { element, space } = this;
    const total = this.root().count();
    this.chosen = Math.max(0, Math.min(this.chosen, total - 1));
    space.style.height = `${total * ROW}px`;
    const first = Math.max(0, Math.floor(element.scrollTop / ROW) - SPARE);
    const last = Math.min(total, Math.ceil((element.scrollTop + element.clientHeight) / ROW) + SPARE);
    const shown: HTMLElement[] = [];
    for (let place = first; place < last; place += 1) {
      const row = this.root().row(place);
      if (row === undefined) break;
      if (row.entry === undefined) this.onMissing(row);
      shown.push(this.row(row, place));
    }
    const empty = total === 0 ? this.empty() : "";
    if (empty) shown.push(h("div", { class: "dm-empty" }, visible(empty)));
    space.replaceChildren(...shown);
    if (total > 0) element.setAttribute("aria-activedescendant", `${this.id}-${this.chosen}`);
    else element.removeAttribute("aria-activedescendant");
  }

  private row(row: Row, place: number): HTMLElement {
    const { entry, folder, index, depth } = row;
    const folded = entry?.kind === "dir" ? !folder.opened.has(entry.name) : undefined;
    const element = h("div", {
      class: "dm-row",
      role: "treeitem",
      id: `${this.id}-${place}`,
      "aria-level": depth,
      "aria-setsize": folder.total,
      "aria-posinset": index + 1,
      "aria-selected": String(place === this.chosen),
      "data-kind": entry?.kind ?? "",
      "data-place": place,
      title: entry ? `${visible(folder.pathOf(entry.name))}\n${entry.mode}` : "",
    });
    if (folded !== undefined) element.setAttribute("aria-expanded", String(!folded));
    element.style.top = `${place * ROW}px`;
    // Where it would leave no room for the name, deeper is told by the level alone.
    element.style.paddingLeft = `min(${6 + (depth - 1) * 16}px, 45cqi)`;
    const label = h("span", { class: "dm-name" }, (entry ? visible(entry.name) : "…") + (entry?.kind === "dir" ? "/" : ""));
    if (entry?.target) label.append(h("span", { class: "dm-target" }, ` → ${visible(entry.target)}`));
    element.append(
      h("span", { class: "dm-twist", "aria-hidden": "true" }, folded === undefined ? "" : folded ? "▸" : "▾"),
      label,
    );
    for (const { text, title, kind } of this.marks(row)) {
      element.append(h("span", { class: "dm-mark", "data-mark": kind, title, "aria-label": title, role: "img" }, text));
    }
    element.append(
      h("span", { class: "dm-size" }, entry?.kind === "file" ? size(entry.size) : ""),
      h("span", { class: "dm-time" }, entry && entry.kind !== "gone" ? when(entry.modified) : ""),
    );
    return element;
  }
}

/** A time as the reader's clock shows it. */
export function when(seconds: number): string {
  const utc = new Date(seconds * 1000);
  const here = new Date(utc.valueOf() - utc.getTimezoneOffset() * 60_000);
  return Number.isNaN(here.valueOf()) ? "" : here.toISOString().slice(0, 16).replace("T", " ");
}
