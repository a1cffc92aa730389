// Loads the page's pure modules: those that touch no document.

import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const STATIC = fileURLToPath(new URL("../../../airflow_openai_batch/ui/static/", import.meta.url));

/** Return modules by their names. The copy says what they are: older Nodes take a .js file for something else. */
export async function pure(...names) {
  const folder = await mkdtemp(join(tmpdir(), "page-"));
  try {
    await cp(STATIC, folder, { recursive: true });
    await writeFile(join(folder, "package.json"), '{"type": "module"}');
    return await Promise.all(names.map((name) => import(pathToFileURL(join(folder, name)).href)));
  } finally {
    await rm(folder, { recursive: true });
  }
}
