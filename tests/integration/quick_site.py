"""A site whose harness and model server take a fraction of a second, for end-to-end tests."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_HARNESS = f"""\
{{% if benchmark.task == "absent" %}}
exec "$EVALHPC_PYTHON" -m a_harness_that_nobody_installed
{{% endif %}}
exec "$EVALHPC_PYTHON" {_HERE / "quick_harness.py"} {{{{ benchmark.task }}}} \\
  "$EVALHPC_OUTPUT_DIR" "$EVALHPC_BASE_URL" {{{{ model.model_id }}}}
"""
_SERVER = f"""\
server=(
  "$EVALHPC_PYTHON" {_HERE / "quick_server.py"} "$EVALHPC_HOST" "$EVALHPC_PORT"
  {{{{ model.model_id }}}}
{{% for word in deployment.extra_args %}}
  {{{{ word }}}}
{{% endfor %}}
)
"""


def write_quick_site(folder: Path, extends: str) -> Path:
    """`folder`/quick.yaml: the site `extends` with the quick harness and server."""
    templates = folder / "templates"
    for name, text in (("harness/lm-eval.sh.j2", _HARNESS), ("deploy/hf.sh.j2", _SERVER)):
        path = templates / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    site = folder / "quick.yaml"
    site.write_text(
        f"name: quick\nextends: {extends}\ntemplates: {templates}\nhostnames: []\n"
        "deploy: {servers: {hf: hf}}\n"
        "run: {ready_timeout: 100, request_retries: 1, lease_timeout: 5}\n"
    )
    return site
