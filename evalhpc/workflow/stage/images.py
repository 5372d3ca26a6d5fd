"""The images of a staging: those that the site or the catalogue names by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evalhpc.config.expand import expand_site
from evalhpc.config.resolve import Overrides, merge_site
from evalhpc.containers.references import is_reference
from evalhpc.deploy.inspection import find_model
from evalhpc.harness.catalogue import harness_spec
from evalhpc.workflow.images.importing import import_image
from evalhpc.workflow.record.image_sites import import_wish
from evalhpc.workflow.submit.choice import choose_deployment
from evalhpc.workflow.submit.prepare import site_layer, suite_of
from evalhpc.workflow.submit.wish import Wish

#: Bytes that must be free where an image is made, as for `evalhpc images import`.
NEED = 40 * 10**9


def stage_images(
    wish: Wish, environ: Mapping[str, str], *, said: Callable[[str], None] = lambda _line: None
) -> None:
    """Import into the site's store what harnesses and server run in, unless it is there."""
    suite = suite_of(wish, environ)
    written = merge_site(site_layer(wish, environ), suite, Overrides(sets=wish.sets))
    site = expand_site(written, environ)
    if site.container.runtime == "none" or site.container.image_dir is None:
        return
    defaults = {b.harness: harness_spec(b.harness).image for b in suite.benchmarks}
    if wish.model is not None:
        model, _ = find_model(wish.model, model_id=wish.model_id)
        server = choose_deployment(model, site)
        defaults[server.kind] = server.image
    for name, default in sorted(defaults.items()):
        text = written.container.images.get(name, default)
        if text is None or not is_reference(text):
            continue
        done = import_image(import_wish(site, text, name=name, need=NEED), environ)
        said(f"image {name}: {'imported' if done.fresh else 'was imported before'}")
