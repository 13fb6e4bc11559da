/** Making elements. Text is always text: nothing from a sandbox is ever parsed as HTML. */

type Attributes = Record<string, string | number | boolean | ((event: never) => void)>;

/** An element with attributes, listeners (`onclick`) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** The same act at the next frame, once however often it is asked for until then. */
export function oncePerFrame(act: () => void): () => void {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      act();
    });
  };
}

/** A style sheet for the page, once. Every class in it begins with `dm-`. */
export function style(id: string, text: string, root: Node): void {
  const place = root.getRootNode();
  const target = place instanceof ShadowRoot ? place : document.head;
  if (target.querySelector(`#${id}`) === null) {
    target.append(h("style", { id }, text));
  }
}

/** Bytes in words.  In: size(2048)  Out: "2.0 KiB" */
export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** Characters that could reorder or hide a name are shown as marks. */
export function visible(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}
