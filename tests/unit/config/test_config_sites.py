"""Sites: the search path, `extends`, detection by host name, and those that ship."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalhpc.config.schema import key_paths
from evalhpc.config.sites import detect_site, list_sites, load_site
from evalhpc.config.yaml_files import parse_yaml
from evalhpc.errors import ConfigError, UsageError
from evalhpc.models.site import Site
from evalhpc.resources import resource_dir

SHIPPED = (
    "aws-parallelcluster", "delta", "devcluster", "eos", "google-a3-mega", "hyperpod", "leonardo",
    "local", "soperator", "sunk", "superpod",
)  # fmt: skip
#: Those of GPU nodes that nobody of us can reach: their facts are others'.
CLUSTERS = tuple(name for name in SHIPPED if name not in ("devcluster", "local"))
DOCS = Path(__file__).parents[3] / "docs"


class Home:
    """A user's home with site files in it, and the environment that goes with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {"HOME": str(root), "PATH": ""}

    def write(self, name: str, text: str, folder: str = ".config/evalhpc/sites") -> Path:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def with_sbatch(self) -> None:
        path = self.write("sbatch", "#!/bin/sh\n", "bin")
        path.chmod(0o755)
        self.env["PATH"] = str(path.parent)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_site_validates(home: Home, name: str) -> None:
    """Every site file of the package can be used, says what it is, and where its facts are from."""
    layer = load_site(name, home.env)
    assert layer.site.name == name
    assert layer.site.description
    assert layer.site.source


def test_the_listing_is_what_ships(home: Home) -> None:
    """The template is not a site; all others are listed with their descriptions."""
    entries = list_sites(home.env)
    assert tuple(entry.name for entry in entries) == SHIPPED
    assert all(entry.origin == "shipped" and entry.description for entry in entries)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_clusters_facts_name_where_they_are_from(home: Home, name: str) -> None:
    """Its own file, not one that it extends, names pages or repositories, and what nobody tried."""
    text = (resource_dir("site_configs") / f"{name}.yaml").read_text()
    source = str(parse_yaml(text, name)["source"])
    assert re.search(r"repository|pages|architecture", source)
    assert "Nothing here has been run on" in source
    assert re.search(r"\bnot tried\b|\bNobody has run\b", (DOCS / f"sites/{name}.md").read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_differs_between_users_is_left_to_them(home: Home, name: str) -> None:
    """A partition is named or asked for, an account never made up, and images are the user's."""
    site = load_site(name, home.env).site
    assert (site.slurm.partition is None) == ("partition" in site.slurm.required)
    assert site.slurm.account is None
    assert site.container.images == {}
    assert site.container.image_dir is None


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_clusters_gpus_are_described(home: Home, name: str) -> None:
    """A shard has GPUs of a known size, from which the model's layout follows; passes have none."""
    site = load_site(name, home.env).site
    assert site.resources.shard.gpus_per_node in (4, 8)
    assert site.deploy.gpu_memory is not None
    assert site.deploy.tensor_parallel is None
    assert site.resources.planning.gpus_per_node == site.resources.collect.gpus_per_node == 0


def test_no_shipped_file_names_a_registry() -> None:
    """Images are files; where they were imported from is the user's business."""
    for path in resource_dir("site_configs").iterdir():
        assert not re.search(r"docker:|\.io\b|registry: *(?!null)\S", path.read_text()), path


def test_the_template_shows_every_key_with_its_default(home: Home) -> None:
    """Uncommenting every `#key:` line changes nothing, and no key of the schema is left out."""
    path = resource_dir("site_configs") / "template.yaml"
    text = re.sub(r"^#extends:.*\n", "", path.read_text(), flags=re.MULTILINE)
    full = parse_yaml(re.sub(r"^(\s*)#(?=\w+:)", r"\1", text, flags=re.MULTILINE), "template")
    for keys in key_paths(Site):
        value = full
        for key in keys:
            assert key in value, ".".join(keys)
            value = value[key]
    assert Site.model_validate(full) == load_site(str(path), home.env).site


def test_the_page_on_sites_explains_every_key() -> None:
    """docs/sites.md has a table row for each key of the schema, and none for a key that is gone."""
    text = (DOCS / "sites.md").read_text()
    documented = re.findall(r"^\| `([a-z_.*]+)` \|", text, flags=re.MULTILINE)
    keys = {".".join(path) for path in key_paths(Site)}
    # The three kinds of job have the same keys: one row for the three of them.
    keys = {re.sub(r"^resources\.\w+\.", "resources.*.", key) for key in keys}
    assert sorted(documented) == sorted(keys)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_site_has_a_page(name: str) -> None:
    """A user finds what to set for a site without reading its YAML."""
    page = (DOCS / "sites" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}")
    assert f"sites/{name}.md" in (DOCS / "sites.md").read_text()


def test_the_search_path_is_variable_then_user_then_shipped(home: Home) -> None:
    """The first file of a name wins; folders that do not exist are skipped."""
    home.write("eos.yaml", "description: user\n")
    assert load_site("eos", home.env).site.description == "user"
    home.write("eos.yaml", "description: first\n", "one")
    home.write("eos.yaml", "description: second\n", "two")
    home.env["EVALHPC_SITE_PATH"] = f"~/absent::{home.root}/one:{home.root}/two"
    assert load_site("eos", home.env).site.description == "first"
    entry = next(entry for entry in list_sites(home.env) if entry.name == "eos")
    assert (entry.origin, entry.path) == ("EVALHPC_SITE_PATH", home.root / "one" / "eos.yaml")


def test_xdg_config_home_moves_the_users_folder(home: Home) -> None:
    """An absolute XDG_CONFIG_HOME counts instead of ~/.config; a relative one does not."""
    home.write("mine.yaml", "description: xdg\n", "xdg/evalhpc/sites")
    home.env["XDG_CONFIG_HOME"] = f"{home.root}/xdg"
    assert load_site("mine", home.env).site.description == "xdg"
    home.write("mine.yaml", "description: home\n")
    home.env["XDG_CONFIG_HOME"] = "xdg"
    assert load_site("mine", home.env).site.description == "home"


def test_an_unknown_site_is_answered_with_the_nearest(home: Home) -> None:
    """The nearest name and the list of all; the template is not among them."""
    with pytest.raises(UsageError) as error:
        load_site("eoss", home.env)
    assert "did you mean 'eos'?" in error.value.what
    assert error.value.cause == f"the sites are {', '.join(SHIPPED)}"
    with pytest.raises(UsageError):
        load_site("template", home.env)


def test_a_broken_user_site_is_listed_with_its_error(home: Home) -> None:
    """One bad file neither hides the others nor is hidden itself."""
    home.write("bad.yaml", "slurm: [\n")
    home.write("odd.yaml", "slurm: {partitoin: x}\n")
    home.write("loop.yaml", "extends: absent\n")
    entries = {entry.name: entry for entry in list_sites(home.env)}
    assert set(SHIPPED) < set(entries)
    assert "bad.yaml:2: " in entries["bad"].error
    assert "did you mean 'partition'?" in entries["odd"].error
    assert "there is no site 'absent'" in entries["loop"].error
    assert not entries["eos"].error


def test_the_name_in_a_file_is_the_files_name(home: Home) -> None:
    """A copied file whose name was not changed is refused; without `name` the file's counts."""
    path = home.write("mine.yaml", "name: template\n")
    with pytest.raises(ConfigError, match="'template' differs from the name of the file, 'mine'"):
        load_site(str(path), home.env)
    path.write_text("description: x\n")
    assert load_site(str(path), home.env).site.name == "mine"


def test_a_path_that_does_not_exist_is_an_error(home: Home) -> None:
    """A name with a slash or .yaml is a file, never a search."""
    with pytest.raises(ConfigError, match="no such file"):
        load_site("./eos.yaml", home.env)


def test_sections_left_empty_keep_their_defaults(home: Home) -> None:
    """`slurm:` with nothing but comments below it is not an error."""
    path = home.write("mine.yaml", "slurm:\n  # account: x\nresources:\n  shard:\nhostnames:\n")
    assert load_site(str(path), home.env).site == Site(name="mine")


def test_a_site_extends_another(home: Home) -> None:
    """What is written goes on top of the other site, key by key; null unsets."""
    home.write("base.yaml", "slurm: {partition: p, qos: q}\nhostnames: [a]\n")
    home.write("mine.yaml", "extends: base\nslurm: {account: me, qos: null}\n")
    site = load_site("mine", home.env).site
    assert (site.name, site.slurm.partition, site.slurm.account) == ("mine", "p", "me")
    assert site.slurm.qos is None
    assert site.hostnames == ("a",)


def test_a_users_site_may_extend_the_shipped_one_of_its_name(home: Home) -> None:
    """`eos.yaml` with `extends: eos` adds to the file behind it on the search path."""
    home.write("eos.yaml", "extends: eos\nslurm: {account: me, partition: batch}\n")
    site = load_site("eos", home.env).site
    assert (site.slurm.account, site.container.runtime) == ("me", "pyxis")


def test_a_circle_of_extensions_is_an_error(home: Home) -> None:
    """Two sites that extend one another are named, in order."""
    home.write("a.yaml", "extends: b\n")
    home.write("b.yaml", "extends: a\n")
    with pytest.raises(ConfigError, match=r"in a circle: a → b → a\n"):
        load_site("a", home.env)
    home.write("own.yaml", "extends: own\n")
    with pytest.raises(ConfigError, match="there is no site 'own'"):
        load_site("own", home.env)


def test_extends_must_be_a_name(home: Home) -> None:
    """A list of parents is not supported, and said so."""
    home.write("a.yaml", "extends: [eos]\n")
    with pytest.raises(ConfigError, match="extends: must be the name of a site"):
        load_site("a", home.env)


def test_required_names_keys_of_slurm(home: Home) -> None:
    """A misspelt key under slurm.required would otherwise demand what nobody can give."""
    home.write("a.yaml", "slurm: {required: [acount]}\n")
    with pytest.raises(ConfigError, match="did you mean 'account'"):
        load_site("a", home.env)


@pytest.mark.parametrize("host", ["login-eos01", "LOGIN-EOS02.example.com"])
def test_a_host_name_finds_its_site(home: Home, host: str) -> None:
    """Patterns are shell patterns, in any case."""
    assert detect_site(host, home.env) == "eos"


def test_a_users_site_wins_over_a_shipped_one(home: Home) -> None:
    """Who extends a shipped site gets the extension on its login nodes."""
    home.write("my-eos.yaml", "extends: eos\n")
    assert detect_site("login-eos01", home.env) == "my-eos"


def test_two_sites_of_one_host_are_named(home: Home) -> None:
    """The user has to choose between two equal claims."""
    home.write("one.yaml", "hostnames: ['front*']\n")
    home.write("two.yaml", "hostnames: [front1]\n")
    with pytest.raises(UsageError, match="one, two") as error:
        detect_site("front1", home.env)
    assert "--site one" in error.value.hint


def test_without_sbatch_an_unknown_host_is_local(home: Home) -> None:
    """A laptop needs no site file; a cluster that nobody described does."""
    assert detect_site("laptop", home.env) == "local"
    home.with_sbatch()
    with pytest.raises(UsageError, match="no site file recognises the host 'laptop'") as error:
        detect_site("laptop", home.env)
    assert f"{home.root}/.config/evalhpc/sites/NAME.yaml" in error.value.hint


def test_a_broken_site_is_mentioned_when_nothing_matches(home: Home) -> None:
    """Perhaps the file that could not be read is the one that would have matched."""
    home.with_sbatch()
    path = home.write("mine.yaml", "hostnames: [cluster\n")
    with pytest.raises(UsageError) as error:
        detect_site("cluster", home.env)
    assert str(path) in error.value.cause
