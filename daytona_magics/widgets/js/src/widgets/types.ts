/** What a front end gives a widget (anywidget's contract), as far as it is used here. */

export interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback: (...args: never[]) => void): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  widget_manager: { get_model(id: string): Promise<Model> };
  /** Whether a kernel is at its other end; only some front ends say so. */
  comm_live?: boolean;
}

export interface RenderContext {
  model: Model;
  el: HTMLElement;
  /** Ends with the view; older versions of anywidget do not give it. */
  signal?: AbortSignal;
}

export interface View {
  model: Model;
  control: Model;
  el: HTMLElement;
  signal: AbortSignal;
}

export interface Core {
  mount(kind: string, view: View): void;
}
