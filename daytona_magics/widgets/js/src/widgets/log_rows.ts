/** One row of a log as elements. Styles and places that were found come as numbers; text stays text. */
import { h } from "./dom";

export const STDERR = 2;
export const NOTE = 3;
const GOES_ON = 16;

type Stretch = [start: number, end: number, fore: number | string | null, back: number | string | null, flags: number];

/** As the kernel sends it: place, source, kind, seconds since 1970 (0: not known), text, styles, places found. */
export type WireRow = [number, number, number, number, string, Stretch[], [number, number][]];

export interface Row {
  place: number;
  source: number;
  kind: number;
  goesOn: boolean;
  time: number;
  text: string;
  styles: Stretch[];
  marks: [number, number][];
}

export function row(wire: WireRow): Row {
  const [place, source, kind, time, text, styles, marks] = wire;
  return { place, source, kind: kind & 15, goesOn: (kind & GOES_ON) !== 0, time, text, styles, marks };
}

const FLAGS = ["dm-bold", "dm-faint", "dm-italic", "dm-underline", "dm-inverse", "dm-strike"];
const COLOUR = /^#[0-9a-f]{6}$/;

/** What is shown of a text: characters that could reorder or hide a line are marks. */
function shown(text: string): string {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** Brightness of a colour, 0 to 1, as contrast is reckoned with. */
function brightness(rgb: number[]): number {
  const [red, green, blue] = rgb.map((one) => (one <= 10 ? one / 3295 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
}

function channels(colour: string): number[] {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** How much of a colour, in percent, can be there so that it is read on a ground of this brightness. */
const mixed = new Map<string, number>();
function readable(colour: string, ground: number, towards: number): number {
  const key = colour + towards;
  let part = mixed.get(key);
  if (part === undefined) {
    const rgb = channels(colour);
    for (part = 100; part > 0; part -= 5) {
      const bright = brightness(rgb.map((one) => (one * part! + towards * (100 - part!)) / 100));
      const [low, high] = [Math.min(bright, ground), Math.max(bright, ground)];
      if ((high + 0.05) / (low + 0.05) >= 4.6) break;
    }
    if (mixed.size > 4096) mixed.clear();
    mixed.set(key, part);
  }
  return part;
}

function paint(element: HTMLElement, style: Stretch): void {
  const [, , fore, back, flags] = style;
  FLAGS.forEach((name, bit) => {
    if (flags & (1 << bit)) element.classList.add(name);
  });
  if (typeof back === "number") {
    // Readable in every pair of colours: the text has that of all text.
    element.classList.add(`dm-back-${back & 15}`);
    return;
  }
  const ground = back !== null && COLOUR.test(back) ? back : null;
  if (ground !== null) element.style.backgroundColor = ground;
  if (typeof fore === "string" && COLOUR.test(fore)) {
    if (ground !== null) {
      element.style.color = fore;
      return;
    }
    // The program chose it for a terminal; the page may be bright or dark.
    element.classList.add("dm-true");
    element.style.setProperty("--dm-true", fore);
    element.style.setProperty("--dm-on-light", `${readable(fore, 0.95, 0)}%`);
    element.style.setProperty("--dm-on-dark", `${readable(fore, 0.02, 255)}%`);
  } else if (ground !== null) {
    element.style.color = brightness(channels(ground)) < 0.2 ? "#ffffff" : "#111111";
  } else if (typeof fore === "number") element.classList.add(`dm-fore-${fore & 15}`);
}

/** The text of a row with its colours and what was found in it. */
function content(row: Row): Node[] {
  if (row.styles.length === 0 && row.marks.length === 0) return [document.createTextNode(shown(row.text))];
  const cuts = new Set([0, row.text.length]);
  for (const [start, end] of [...row.styles, ...row.marks]) cuts.add(start).add(end);
  const places = [...cuts].filter((at) => at <= row.text.length).sort((one, other) => one - other);
  const nodes: Node[] = [];
  let style = 0;
  let mark = 0;
  for (let index = 0; index + 1 < places.length; index += 1) {
    const from = places[index]!;
    const to = places[index + 1]!;
    while (style < row.styles.length && row.styles[style]![1] <= from) style += 1;
    while (mark < row.marks.length && row.marks[mark]![1] <= from) mark += 1;
    const found = row.marks[mark];
    const styled = row.styles[style];
    const text = shown(row.text.slice(from, to));
    const element = h(found !== undefined && found[0] <= from && found[0] < found[1] ? "mark" : "span", {}, text);
    if (styled !== undefined && styled[0] <= from) paint(element, styled);
    nodes.push(element);
  }
  return nodes;
}

/** A time as the reader's clock shows it. */
export function clock(seconds: number): string {
  if (seconds <= 0) return "";
  const time = new Date(seconds * 1000);
  const two = (value: number, digits = 2) => String(value).padStart(digits, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${two(time.getMilliseconds(), 3)}`;
}

/** A row. `name` is that of its source, where there are several. */
export function element(row: Row, name: string): HTMLElement {
  const made = h("div", { class: "dm-line", "data-place": row.place });
  if (row.kind === NOTE) made.classList.add("dm-note");
  if (row.kind === STDERR) made.classList.add("dm-stderr");
  const when = h("span", { class: "dm-when" }, clock(row.time));
  if (row.time > 0) when.title = new Date(row.time * 1000).toISOString();
  made.append(when);
  if (name !== "") made.append(h("span", { class: `dm-source dm-colour-${row.source % 8}`, title: name }, name));
  if (row.kind === STDERR) made.append(h("span", { class: "dm-tag", title: "standard error" }, "err"));
  const text = h("span", { class: "dm-text" }, ...content(row));
  if (row.goesOn) text.append(h("span", { class: "dm-goes-on", title: "The line goes on in the next row" }, "↩"));
  made.append(text);
  return made;
}

/** A row that is on its way. */
export function empty(place: number): HTMLElement {
  return h("div", { class: "dm-line dm-missing", "data-place": place }, h("span", { class: "dm-text" }, "…"));
}
