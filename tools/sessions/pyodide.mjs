// pyodide.mjs - run pytest in Pyodide, by Node.
// SPDX-License-Identifier: BSD-3-Clause
//
//     node pyodide.mjs PYODIDE SITE PROJECT [ARGUMENT OF PYTEST ...]
//
// PYODIDE is a folder with pyodide.mjs, SITE one with packages, PROJECT the working directory.
import { pathToFileURL } from "node:url";

const [pyodide, site, project, ...options] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
const env = { HOME: "/tmp", CI: "true", PYTHONDONTWRITEBYTECODE: "1" };
const python = await loadPyodide({ indexURL: pyodide, env });
for (const [path, root] of [["/site", site], ["/project", project]]) {
  python.FS.mkdirTree(path);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, path);
}
python.globals.set("options", python.toPy(options));
process.exitCode = python.runPython(`
import os, sys
os.chdir("/project")
sys.path.insert(0, "/site")
import pytest
int(pytest.main(options))
`);
