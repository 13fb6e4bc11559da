/** The path as buttons, one for each folder above. */
import { h, visible } from "./dom";

export class Crumbs {
  readonly element = h("nav", { class: "dm-path", "aria-label": "Folder" });
  private readonly branch = h("span", { class: "dm-branch", title: "git branch" });

  constructor(private readonly go: (path: string) => void) {}

  show(path: string, branch: string): void {
    const names = path.split("/").filter((name) => name !== "");
    const above = names.slice(0, -1).map((name, at) => [name, `/${names.slice(0, at + 1).join("/")}`] as const);
    const button = (name: string, target: string) =>
      h("button", { type: "button", class: "dm-crumb", title: visible(target), onclick: () => this.go(target) }, visible(name));
    const parts: Node[] = [];
    if (names.length > 0) parts.push(button("/", "/"));
    for (const [name, target] of above) parts.push(button(name, target), h("span", { "aria-hidden": "true" }, "/"));
    parts.push(h("strong", { title: visible(path) }, visible(names[names.length - 1] ?? "/")));
    this.branch.textContent = branch ? `⎇ ${visible(branch)}` : "";
    this.branch.hidden = branch === "";
    this.element.replaceChildren(...parts, this.branch);
  }
}
