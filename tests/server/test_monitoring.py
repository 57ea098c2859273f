"""deploy/prometheus and deploy/grafana: tested by promtool, and by what the service exposes."""

import json
import re
import shutil
import subprocess
from itertools import pairwise

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from service import ROOT
from support import BUNDLED, SQLITE, bearing, require

import services
from worker import Pool

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
TESTS = ROOT / "deploy" / "prometheus" / "tests.yml"
BOARD = ROOT / "deploy" / "grafana" / "pkgd.json"
VARIABLES = {"$job": "pkgd", "$__rate_interval": "5m"}
OF_PROMETHEUS = {"job", "instance"}


@pytest.fixture
def promtool():
    """Return a function that runs promtool and returns what it says of a file."""
    program = shutil.which("promtool")
    require(program, "promtool")

    def promtool(*arguments):
        done = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return promtool


def rules():
    """Return the alert rules."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def recorded():
    """Return the tests of the rules."""
    return yaml.safe_load(TESTS.read_text())["tests"]


def board_expressions():
    """Return every expression of the board."""
    panels = json.loads(BOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


@pytest.fixture
def exposed(settings, make_app):
    """The names of all samples that a service with an index exposes, with their labels' names."""
    app = make_app(CATALOGS=BUNDLED, INDEX_BYTES=2**30)
    client = bearing(app, app.test_client().post("/api/v1/tokens").json["token"])
    services.get(Pool, app).maintain_once()
    services.get(Pool, app).run_one()
    client.get("/api/v1/version")
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_each_alert_fires_and_clears_on_recorded_series(promtool):
    assert f"{len(rules())} rules found" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_each_alert_is_tested_to_fire_alone_and_to_clear():
    fired = set()
    for test in recorded():
        moments = [one["exp_samples"] for one in test.get("promql_expr_test", ())]
        for before, after in pairwise(moments):
            if before and after == []:
                fired |= {re.search('alertname="(.*)"', one["labels"])[1] for one in before}

    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_to_do_and_where_to_read_on(rule):
    operations = (ROOT / "docs" / "operations.md").read_text()

    assert rule["labels"].keys() == {"severity"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == "docs/operations.md#alerts"
    assert f"| `{rule['alert']}` |" in operations.partition("\n## Alerts\n")[2]


@SQLITE
def test_rules_and_board_use_only_metrics_that_there_are(exposed):
    used = [*board_expressions(), *(rule["expr"] for rule in rules())]
    names = {name for text in used for name in re.findall(r"\bpkgd_\w+", text)}

    assert len(names) > 20
    assert names - exposed.keys() == set()


@SQLITE
def test_the_recorded_series_have_the_labels_that_there_are(exposed):
    for test in recorded():
        for one in test["input_series"]:
            name, _, labels = one["series"].partition("{")
            given = set(re.findall(r'(\w+)="', labels)) - OF_PROMETHEUS
            assert name == "up" or given <= exposed[name], one


@SQLITE
def test_labels_that_rules_and_board_select_or_group_by_are_there(exposed):
    labels = set().union(*exposed.values()) | OF_PROMETHEUS
    for text in [*board_expressions(), *(rule["expr"] for rule in rules())]:
        grouped = ", ".join(re.findall(r"(?:by|on) \(([\w, ]*)\)", text)).split(", ")
        selected = re.findall(r'(\w+)(?:=|!=|=~|!~)"', text)
        assert {*grouped, *selected} - {""} <= labels, text


def test_the_board_is_made_of_expressions_that_prometheus_reads(promtool, tmp_path):
    expressions = board_expressions()
    for variable, value in VARIABLES.items():
        expressions = [text.replace(variable, value) for text in expressions]
    recorders = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions)]
    (tmp_path / "board.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "board", "rules": recorders}]})
    )

    said = promtool("check", "rules", tmp_path / "board.yml")

    assert f"{len(expressions)} rules found" in said


def test_the_board_names_no_data_source_of_its_own():
    board = json.loads(BOARD.read_text())

    assert board["templating"]["list"][0]["type"] == "datasource"
    sources = re.findall(r'"uid": "(.*)"', BOARD.read_text())
    assert set(sources) == {"${datasource}", "pkgd"}
    assert {panel["type"] for panel in board["panels"]} <= {"row", "stat", "table", "timeseries"}
