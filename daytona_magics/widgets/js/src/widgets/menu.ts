/** A list of things to do, opened by a button or on a row: arrows choose, Enter does, Escape closes. */
import { h, visible } from "./dom";

export interface Item {
  text: string;
  act: () => void;
  /** It cannot be undone. */
  danger?: boolean;
  disabled?: boolean;
}

let close: () => void = () => {};

/**
 * Open a menu below `anchor`, or where the pointer is.
 *
 * @param within the widget's element, which holds the menu and which it stays inside of.
 */
export function menu(within: HTMLElement, anchor: HTMLElement, items: Item[], at?: { x: number; y: number }): void {
  close();
  const back = document.activeElement as HTMLElement | null;
  const entries = items.map((item) =>
    h("button", {
      type: "button",
      role: "menuitem",
      tabindex: -1,
      class: item.danger ? "dm-danger" : "",
      disabled: item.disabled === true,
      onclick: () => {
        done(true);
        item.act();
      },
    }, visible(item.text)),
  );
  const list = h("div", { class: "dm-menu", role: "menu" }, ...entries);
  const usable = entries.filter((one) => !one.disabled);
  const outside = (event: Event) => {
    if (!list.contains(event.target as Node)) done(false);
  };
  const done = (refocus: boolean) => {
    document.removeEventListener("pointerdown", outside, true);
    list.remove();
    close = () => {};
    anchor.setAttribute("aria-expanded", "false");
    if (refocus) back?.focus({ preventScroll: true });
  };
  list.addEventListener("keydown", (event) => {
    const now = usable.indexOf(document.activeElement as HTMLButtonElement);
    const steps: Record<string, number> = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: usable.length - 1 };
    const next = steps[event.key];
    if (next !== undefined) usable[(next + usable.length) % usable.length]?.focus();
    else if (event.key === "Escape" || event.key === "Tab") done(true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  within.append(list);
  const frame = within.getBoundingClientRect();
  const box = anchor.getBoundingClientRect();
  const [x, y] = at ? [at.x, at.y] : [box.left, box.bottom];
  list.style.left = `${Math.max(0, Math.min(x - frame.left, frame.width - list.offsetWidth - 2))}px`;
  list.style.top = `${Math.max(0, y - frame.top)}px`;
  anchor.setAttribute("aria-expanded", "true");
  close = () => done(false);
  document.addEventListener("pointerdown", outside, true);
  usable[0]?.focus({ preventScroll: true });
}
