/** The row of tabs: chosen by arrow keys, renamed by F2 or a double click, closed by Delete or ×. */
import { h, visible } from "./dom";
import type { Told } from "./terminal_screen";

interface Acts {
  choose(tab: number): void;
  close(tab: number): void;
  rename(tab: number): void;
}

let rows = 0;

export class Tabs {
  readonly element = h("div", { class: "dm-tabs", role: "tablist", "aria-label": "Shells" });
  private readonly id = `dm-terminal-${++rows}`;
  private shown: Told[] = [];
  private active = 0;

  constructor(private readonly acts: Acts) {
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  label(tab: number): string {
    return `${this.id}-tab-${tab}`;
  }

  panel(tab: number): string {
    return `${this.id}-panel-${tab}`;
  }

  /** The focus goes to the chosen tab. */
  focus(): void {
    this.element.querySelector<HTMLElement>('[aria-selected="true"]')?.focus();
  }

  draw(tabs: Told[], active: number): void {
    const focused = this.element.contains(document.activeElement);
    this.shown = tabs;
    this.active = active;
    this.element.replaceChildren(...tabs.map((told) => this.tab(told)));
    // Of many tabs only some rows are in sight.
    const chosen = this.element.querySelector<HTMLElement>('[aria-selected="true"]');
    this.element.scrollTop = (chosen?.offsetTop ?? 0) - (chosen?.offsetHeight ?? 0);
    if (focused) this.focus();
  }

  private tab(told: Told): HTMLElement {
    const name = visible(told.name);
    const chosen = told.id === this.active;
    const ended = told.code === null ? "ended" : `exit ${told.code}`;
    const state = { opening: "…", running: "", lost: "reconnecting", cut: "lost", ended, stopped: "stopped" }[told.state];
    return h("span", { class: "dm-tab", role: "presentation", "data-state": told.state },
      h("button", {
        id: this.label(told.id),
        role: "tab",
        "aria-selected": String(chosen),
        "aria-controls": this.panel(told.id),
        "data-lm-suppress-shortcuts": "true",
        tabindex: chosen ? 0 : -1,
        title: `${name} (F2 renames, Delete closes)`,
        onclick: () => this.acts.choose(told.id),
        ondblclick: () => this.acts.rename(told.id),
      }, name, ...(state ? [h("small", {}, state)] : [])),
      h("button", {
        class: "dm-close",
        tabindex: -1,
        "aria-hidden": "true",
        title: `Close ${name}`,
        onclick: () => this.acts.close(told.id),
      }, "×"),
    );
  }

  private key(event: KeyboardEvent): void {
    const at = this.shown.findIndex((one) => one.id === this.active);
    const last = this.shown.length - 1;
    const to = { ArrowLeft: at === 0 ? last : at - 1, ArrowRight: at === last ? 0 : at + 1, Home: 0, End: last }[event.key];
    const target = to === undefined ? undefined : this.shown[to];
    event.stopPropagation();
    if (target !== undefined) {
      this.acts.choose(target.id);
      this.focus();
    } else if (event.key === "F2") this.acts.rename(this.active);
    else if (event.key === "Delete") this.acts.close(this.active);
    else return;
    event.preventDefault();
  }
}
