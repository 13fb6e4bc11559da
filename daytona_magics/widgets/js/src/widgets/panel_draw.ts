/** Small drawings of the panel: tables that keep the focus, sparklines, times. */
import { h, visible } from "./dom";

/** Replace what is in an element; the focus stays on what has the same `data-key`. */
export function swap(place: HTMLElement, ...children: (Node | string)[]): void {
  const root = place.getRootNode() as Document | ShadowRoot;
  const active = root.activeElement as HTMLElement | null;
  const key = active && place.contains(active) ? active.dataset.key : undefined;
  place.replaceChildren(...children);
  if (key === undefined) return;
  const again = [...place.querySelectorAll<HTMLElement>("[data-key]")].find((one) => one.dataset.key === key);
  (again ?? place.querySelector<HTMLElement>("button, input, summary"))?.focus({ preventScroll: true });
}

export type Cell = string | Node;

/** A table with a heading for each column; the first cell of a row names it. */
export function table(label: string, head: string[], rows: Cell[][]): HTMLElement {
  const cell = (value: Cell) => (typeof value === "string" ? visible(value) : value);
  return h("table", { class: "dm-table", "aria-label": label },
    h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text || hidden("Actions"))))),
    h("tbody", {}, ...rows.map((row) =>
      h("tr", {}, ...row.map((value, at) => h(at ? "td" : "th", at ? { "data-label": head[at] ?? "" } : { scope: "row" }, cell(value)))),
    )),
  );
}

export function hidden(text: string): HTMLElement {
  return h("span", { class: "dm-hidden" }, text);
}

/** A button that is found again when its place is drawn anew. */
export function act(key: string, text: string, label: string, does: () => unknown, kind = ""): HTMLButtonElement {
  const made = h("button", { type: "button", "data-key": key, class: kind, onclick: () => void does() }, text);
  if (label && label !== text) made.setAttribute("aria-label", visible(label));
  return made;
}

/** The state as a coloured sign and a word. */
export function state(word: string): HTMLElement {
  const kind = word === "started" ? "good" : /error|failed/.test(word) ? "bad" : "mid";
  return h("span", { class: "dm-state", "data-kind": kind }, h("span", { "aria-hidden": "true" }, "●"), ` ${visible(word)}`);
}

const SVG = "http://www.w3.org/2000/svg";

/** Percentages over time as a line, oldest first. */
export function spark(values: number[], text: string): SVGElement {
  const width = 120;
  const height = 24;
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({
    viewBox: `0 0 ${width} ${height}`, class: "dm-spark", role: "img", "aria-label": text, preserveAspectRatio: "none",
  })) svg.setAttribute(name, value);
  const most = 120;
  const shown = values.slice(-most);
  const points = shown.map((value, at) => {
    const x = width - (shown.length - 1 - at) * (width / (most - 1));
    const y = height - 1.5 - (Math.max(0, Math.min(100, value)) / 100) * (height - 3);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  if (points.length === 1) points.unshift(`${width - 3},${points[0]?.split(",")[1] ?? height}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  line.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(line);
  return svg;
}

/** Seconds as a countdown.  In: left(3725), left(59), left(200000)  Out: "1:02:05", "0:59", "2 d 7 h" */
export function left(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  const two = (value: number) => String(value).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** How long ago, roughly. */
export function ago(at: number | null, now = Date.now() / 1000): string {
  if (at === null || !Number.isFinite(at)) return "";
  const seconds = Math.max(0, now - at);
  for (const [length, name] of [[86400, "d"], [3600, "h"], [60, "min"]] as const) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${name} ago`;
  }
  return "just now";
}
