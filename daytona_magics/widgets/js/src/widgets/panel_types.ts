/** What the kernel says to the panel (`widgets/panel_facts.py` and `panel_watch.py`). */

export interface Time {
  what: string;
  at: number | null;
  text: string;
  about: boolean;
}

export interface Box {
  id: string;
  name: string;
  state: string;
  words: string;
  where: string;
  embedded: boolean;
  context: string;
  size: string;
  times: Time[];
  can: string[];
  labels: [string, string][];
}

export interface PanelView {
  phase: "looking" | "none" | "bound" | "gone";
  box: Box | null;
  mode: { there: boolean; on: boolean; tagged: boolean };
  line: boolean;
  problem: { code?: string; text?: string; hint?: string };
  doing: string;
  opens: string[];
  lists: boolean;
}

export interface Resources {
  samples: [number, number, number, number][];
  totals: { cpu?: string; memory?: string; disk?: string };
}

export interface Context {
  name: string;
  language: string;
  alive: boolean;
  busy: string;
  queued: number;
  mine: boolean;
}

export interface Run {
  id: string;
  name: string;
  job: boolean;
  language: string;
  context: string;
  state: string;
  started: number | null;
  seconds: number;
  printed: number;
  kept: boolean;
}

export interface Inside {
  contexts?: Context[];
  runs?: Run[];
  ports?: number[];
  sessions?: { id: string; commands: [string, number | null][] }[];
  terminals?: { id: string; running: boolean; folder: string; ofCells: boolean }[];
}

export interface Row {
  id: string;
  name: string;
  state: string;
  owner: string;
  orphan: boolean;
  /** Why it is somebody else's; "" when it is not. */
  foreign: string;
  bound: boolean;
  created: number | null;
  labels: [string, string][];
  can: string[];
}

export interface Others {
  rows?: Row[];
  loaded?: boolean;
}

/** What the parts of the panel may have done. */
export interface Hands {
  /** Call the kernel; false when that failed, which has been said then. */
  call(name: string, given?: Record<string, unknown>): Promise<boolean>;
  /** Start, stop, delete, ... a sandbox, after asking where something would be lost. */
  change(what: string, box: { id: string; name: string; foreign?: string }): void;
  /** Ask before something is lost. */
  confirm(question: string, yes: string, act: () => unknown): void;
  /** Let the reader type the name of what is not theirs. */
  typed(question: string, name: string, yes: string, act: () => unknown): void;
  open(kind: string, of?: unknown): void;
  opens(kind: string): boolean;
}
