/** The other terminals of the sandbox: those of other notebooks, or of programs. */
import { h, visible } from "./dom";
import type { Line } from "./line";

type Row = [name: string, cols: number, rows: number, folder: string, running: boolean];

export class Sessions {
  readonly element = h("div", { class: "dm-sessions", hidden: true, role: "group", "aria-label": "Other terminals" });

  constructor(
    private readonly line: Line,
    private readonly join: (session: string) => void,
    private readonly failed: (error: unknown) => void,
  ) {}

  async toggle(): Promise<void> {
    if (!this.element.hidden) this.element.hidden = true;
    else await this.show();
  }

  private async show(): Promise<void> {
    try {
      const { value } = await this.line.call("sessions");
      const rows = value.sessions as unknown as Row[];
      const more = Number(value.more);
      this.element.replaceChildren(
        h("ul", {}, ...rows.map((row) => this.row(row))),
        ...(rows.length === 0 ? [h("div", { class: "dm-empty" }, "The sandbox has no other terminals.")] : []),
        ...(more > 0 ? [h("div", { class: "dm-empty" }, `… ${more} more`)] : []),
        h("button", { onclick: () => (this.element.hidden = true) }, "Close"),
      );
      this.element.hidden = false;
      this.element.querySelector("button")?.focus();
    } catch (error) {
      this.failed(error);
    }
  }

  private row([session, cols, rows, folder, running]: Row): HTMLElement {
    const name = visible(session);
    const told = `${name} · ${cols}×${rows} · ${visible(folder)}${running ? "" : " · not started"}`;
    return h("li", {}, h("span", {}, told),
      h("button", {
        "aria-label": `Connect to ${name}`,
        onclick: () => {
          this.element.hidden = true;
          this.join(session);
        },
      }, "Connect"),
      h("button", { class: "dm-danger", "aria-label": `End ${name}`, onclick: () => void this.end(session) }, "End"));
  }

  private async end(session: string): Promise<void> {
    try {
      await this.line.call("end", { session });
      await this.show();
    } catch (error) {
      this.failed(error);
    }
  }
}
