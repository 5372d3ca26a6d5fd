"""Where runs are looked for."""

from __future__ import annotations

from pathlib import Path

from evalhpc.workflow.watch.listing import run_roots


def test_roots_of_other_clusters_are_not_looked_at(tmp_path: Path) -> None:
    """A site's run root may have a variable that only its own cluster sets."""
    sites = tmp_path / "evalhpc" / "sites"
    sites.mkdir(parents=True)
    (sites / "away.yaml").write_text("name: away\nextends: local\nrun_root: /away/$NOWHERE_SET/x\n")
    (sites / "near.yaml").write_text(f"name: near\nextends: local\nrun_root: {tmp_path}/runs\n")
    roots = run_roots({"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)})
    assert tmp_path / "runs" in roots
    assert not [root for root in roots if "$" in str(root)]
