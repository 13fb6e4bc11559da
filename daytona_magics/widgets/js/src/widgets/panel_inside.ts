/** What is inside the sandbox: contexts and what runs in them, sessions and terminals, ports. */
import { h, size, visible } from "./dom";
import { act, ago, type Cell, left, swap, table } from "./panel_draw";
import type { Context, Hands, Inside, Run } from "./panel_types";

const RUNS = 8;

export class InsideParts {
  readonly contexts = h("div", {});
  readonly processes = h("div", {});
  readonly ports = h("div", {});
  private all = false;
  private last: Inside = {};

  constructor(private readonly hands: Hands) {}

  /** How many there are of each, for the headings. */
  counts(inside: Inside): Record<string, string> {
    const running = (inside.runs ?? []).filter((one) => one.state === "running" || one.state === "queued").length;
    const count = (value: number | undefined) => (value === undefined ? "" : ` (${value})`);
    const seats = inside.sessions ? inside.sessions.length + (inside.terminals ?? []).filter((one) => !one.ofCells).length : undefined;
    return {
      contexts: `${count(inside.contexts?.length)}${running ? ` · ${running} running` : ""}`,
      processes: count(seats),
      ports: count(inside.ports?.length),
    };
  }

  draw(inside: Inside, line: boolean, started: boolean): void {
    this.last = inside;
    const off = (text: string) => h("div", { class: "dm-empty dm-small" }, text);
    if (!started) {
      for (const place of [this.contexts, this.processes, this.ports]) {
        swap(place, off("Nothing runs: the sandbox is not started."));
      }
      return;
    }
    if (inside.contexts) swap(this.contexts, this.contextTable(inside.contexts), ...this.runTable(inside.runs ?? []));
    else swap(this.contexts, off(line ? "Asking …" : "Shown once a cell of this kernel has run in the sandbox."));
    swap(this.processes, ...(inside.sessions ? this.seats(inside) : [off("Asking …")]));
    swap(this.ports, inside.ports ? this.portTable(inside.ports) : off("Asking …"));
  }

  private contextTable(contexts: Context[]): HTMLElement {
    if (contexts.length === 0) return h("div", { class: "dm-empty dm-small" }, "No interpreter runs yet.");
    const rows = contexts.map((one): Cell[] => {
      const name = one.name + (one.mine ? " (this notebook)" : "");
      const busy = one.busy ? `busy${one.queued ? `, ${one.queued} waiting` : ""}` : one.alive || one.language === "bash" ? "idle" : "ended";
      const ask = () => this.hands.confirm(
        `Reset ${visible(one.name)}? Its variables are lost, files are kept${one.mine ? "" : "; another kernel may be using it"}.`,
        "Reset", () => this.hands.call("context", { name: one.name }));
      return [name, one.language, busy, h("span", { class: "dm-acts" },
        act(`reset-${one.name}`, "Reset", `Reset context ${one.name}`, ask))];
    });
    return table("Contexts", ["context", "language", "state", ""], rows);
  }

  private runTable(runs: Run[]): HTMLElement[] {
    if (runs.length === 0) return [];
    const live = runs.filter((one) => one.state === "running" || one.state === "queued");
    const ended = runs.filter((one) => !live.includes(one));
    const shown = [...live, ...ended].slice(0, this.all ? runs.length : RUNS);
    const made = table("Jobs and cells", ["cell or job", "state", "time", "printed", ""], shown.map((one) => this.run(one)));
    if (runs.length <= RUNS) return [made];
    const more = act("more-runs", this.all ? "Show fewer" : `Show all ${runs.length}`, "", () => {
      this.all = !this.all;
      this.draw(this.last, true, true);
    });
    return [made, more];
  }

  private run(one: Run): Cell[] {
    const acts = h("span", { class: "dm-acts" });
    if (one.state === "running" || one.state === "queued") {
      acts.append(act(`cancel-${one.id}`, "Cancel", `Cancel ${one.name}`, () => this.hands.call("cancel", { id: one.id }), "dm-danger"));
    }
    if (this.hands.opens("LogStream") && (one.kept || one.state === "running")) {
      acts.append(act(`log-${one.id}`, "Log", `Open the log of ${one.name}`, () => this.hands.open("LogStream", one.id)));
    }
    const kind = one.job ? "job" : "cell";
    const name = h("span", { title: visible(`${one.context}\n${one.id}`) }, `${visible(one.name)} `, h("span", { class: "dm-soft" }, `${kind} ${one.id.slice(0, 8)}`));
    const time = one.seconds >= 60 ? left(one.seconds) : `${one.seconds} s`;
    return [name, one.state, one.started === null ? "" : `${time}, ${ago(one.started)}`, size(one.printed), acts];
  }

  private seats(inside: Inside): HTMLElement[] {
    const end = (kind: string, id: string) => () => this.hands.confirm(
      `End the ${kind} ${visible(id)} with all its processes?`, "End it", () => this.hands.call("end", { kind, id }));
    const rows: Cell[][] = (inside.sessions ?? []).map((one) => {
      const last = one.commands[one.commands.length - 1];
      const how = last === undefined ? "no command yet" : last[1] === null ? `running: ${last[0]}` : `ended (${last[1]}): ${last[0]}`;
      return [one.id, "session", how, h("span", { class: "dm-acts" },
        act(`end-${one.id}`, "End", `End session ${one.id}`, end("session", one.id), "dm-danger"))];
    });
    for (const one of inside.terminals ?? []) {
      if (one.ofCells) continue;
      rows.push([one.id, "terminal", `${one.running ? "open" : "not started"} in ${one.folder}`, h("span", { class: "dm-acts" },
        act(`end-${one.id}`, "End", `End terminal ${one.id}`, end("terminal", one.id), "dm-danger"))]);
    }
    const lines = (inside.terminals ?? []).filter((one) => one.ofCells).length;
    const foot = lines ? [h("div", { class: "dm-soft dm-small" }, `${lines} more ${lines === 1 ? "carries" : "carry"} the cells of notebooks.`)] : [];
    if (rows.length === 0) return [h("div", { class: "dm-empty dm-small" }, "No sessions and no terminals."), ...foot];
    return [table("Sessions and terminals", ["name", "kind", "state", ""], rows), ...foot];
  }

  private portTable(ports: number[]): HTMLElement {
    if (ports.length === 0) return h("div", { class: "dm-empty dm-small" }, "Nothing listens on a port.");
    const open = this.hands.opens("Preview");
    return h("div", { class: "dm-acts dm-ports" }, ...ports.map((port) =>
      open ? act(`port-${port}`, `${port} · preview`, `Open a preview of port ${port}`, () => this.hands.open("Preview", port)) : h("code", {}, String(port)),
    ));
  }
}
