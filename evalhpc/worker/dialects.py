"""The dialects by the name that a deployment gives to its own."""

from __future__ import annotations

from evalhpc.worker.dialect import Dialect, OpenAI
from evalhpc.worker.export_deploy import ExportDeploy, ExportDeployHf

DIALECTS: dict[str, Dialect] = {
    "openai": OpenAI(),
    "export-deploy": ExportDeploy(),
    "export-deploy-hf": ExportDeployHf(),
}
