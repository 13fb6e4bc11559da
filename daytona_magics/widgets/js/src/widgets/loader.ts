/**
 * The module every widget brings along. It fetches the rest once per page: the text of the hidden assets model,
 * imported from a blob and kept for all widgets of that version.
 *
 * Nothing happens before `render`: a front end drops the messages of models whose initialisation takes long.
 */
import type { Core, Model, RenderContext } from "./types";

type Cache = Map<string, Promise<Core>>;

const NAME = "IPY_MODEL_";

function cache(): Cache {
  const all = globalThis as { __daytona_magics?: Cache };
  return (all.__daytona_magics ??= new Map());
}

async function load(assets: Model): Promise<Core> {
  const version = String(assets.get("version"));
  let core = cache().get(version);
  if (core === undefined) {
    const url = URL.createObjectURL(new Blob([String(assets.get("source"))], { type: "text/javascript" }));
    core = import(/* @vite-ignore */ url).then((module: { default: Core }) => module.default);
    cache().set(version, core);
    core.catch(() => cache().delete(version)).finally(() => URL.revokeObjectURL(url));
  }
  return core;
}

/** Another model of this kernel, by the reference a trait holds. */
async function referred(model: Model, trait: string): Promise<Model> {
  return model.widget_manager.get_model(String(model.get(trait)).slice(NAME.length));
}

export default {
  async render(context: RenderContext): Promise<() => void> {
    const { model, el } = context;
    const ending = new AbortController();
    context.signal?.addEventListener("abort", () => ending.abort(), { once: true });
    try {
      const [core, control] = await Promise.all([
        referred(model, "_assets").then(load),
        referred(model, "_control"),
      ]);
      core.mount(String(model.get("_kind")), { model, control, el, signal: ending.signal });
    } catch (error) {
      // A page that forbids modules from blobs, or a notebook whose kernel is gone.
      el.textContent = `This widget cannot be shown here (${String(error)}). Run its cell again.`;
    }
    return () => ending.abort();
  },
};
