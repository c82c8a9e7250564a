// pyodide.mjs - run a module of Python in Pyodide, by Node.
// SPDX-License-Identifier: BSD-3-Clause
//
//     node pyodide.mjs PYODIDE SITE PROJECT MODULE [ARGUMENT ...]
//
// PYODIDE is a folder with pyodide.mjs, SITE one with packages, PROJECT the working directory.
import { pathToFileURL } from "node:url";

const [pyodide, site, project, ...module] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
const env = { HOME: "/tmp", CI: "true", PYTHONDONTWRITEBYTECODE: "1" };
const python = await loadPyodide({ indexURL: pyodide, env });
for (const [path, root] of [["/site", site], ["/project", project]]) {
  python.FS.mkdirTree(path);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, path);
}
python.globals.set("module", python.toPy(module));
process.exitCode = python.runPython(`
import os, runpy, sys
os.chdir("/project")
sys.path.insert(0, "/site")
sys.argv = list(module)
try:
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
else:
    code = 0
int(code or 0)
`);
