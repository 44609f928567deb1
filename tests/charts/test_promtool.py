"""promtool, which is built first, on the metrics of a server and on the rules of the chart."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.monitoring import expressions, rules
from tools.harness.server import Server, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
POD = 'namespace="models",pod="phi3-7d4b9c-x2x4z"'
REQUESTS = f"phi3_http_requests_total{{{POD},"
QUEUE = f"vllm:request_queue_time_seconds_bucket{{{POD},"
# The series that make each alert fire, in the notation of `promtool test rules`, and series that make none fire.
FIRES: dict[str, dict[str, str]] = {
    "Phi3Down": {f"up{{{POD}}}": "1+0x60"},
    "Phi3HighErrorRate": {
        f'{REQUESTS}route="/chat",status="200"}}': "0+90x60",
        f'{REQUESTS}route="/chat",status="500"}}': "0+10x60",
    },
    "Phi3RequestsRejected": {f'{REQUESTS}route="/chat",status="429"}}': "0+1x60"},
    "Phi3LongQueueTime": {
        f'{QUEUE}le="30"}}': "0+1x60",
        f'{QUEUE}le="60"}}': "0+9x60",
        f'{QUEUE}le="+Inf"}}': "0+10x60",
    },
}
QUIET: dict[str, str] = {
    f"vllm:num_requests_running{{{POD}}}": "1+0x60",
    f'{REQUESTS}route="/chat",status="200"}}': "0+96x60",
    f'{REQUESTS}route="/chat",status="500"}}': "0+4x60",
    f'{REQUESTS}route="/readyz",status="503"}}': "0+100x60",
    f'{QUEUE}le="30"}}': "0+96x60",
    f'{QUEUE}le="60"}}': "0+100x60",
    f'{QUEUE}le="+Inf"}}': "0+100x60",
}


@pytest.fixture(scope="module")
def promtool() -> Path:
    subprocess.run([ROOT / "scripts/tools", "promtool"], check=True)
    return ROOT / ".tools/bin/promtool"


@pytest.fixture(scope="module")
def exercised_server(demo: Path) -> Iterator[Server]:
    """A server that has responded on each route."""
    with running(demo, "--dtype", "float32", "--max-context", "128") as server:
        for fields in ({"max_new_tokens": 2}, {"max_new_tokens": 2, "num_beams": 2}, {"top_p": 7}):
            server.chat("Hello", **fields)
        server.http.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 2, "stream": True})
        yield server


def test_promtool_accepts_the_metrics_except_for_the_colon_in_vllm_names(
    promtool: Path, exercised_server: Server
) -> None:
    text = exercised_server.http.get("/metrics").text
    assert "vllm:e2e_request_latency_seconds_bucket" in text
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    problems = [line for line in found.stderr.splitlines() if "metric names should not contain ':'" not in line]
    assert (problems, found.stdout) == ([], "")
    assert all(line.startswith("vllm:") for line in found.stderr.splitlines())


def test_promtool_accepts_every_expression_of_the_chart(promtool: Path, tmp_path: Path) -> None:
    rendered = [re.sub(r"\$__rate_interval", "5m", each) for each in expressions() if "label_values(" not in each]
    records = [{"record": f"expression:{number}", "expr": each} for number, each in enumerate(rendered)]
    groups = [{"name": "alerts", "rules": rules()}, {"name": "expressions", "rules": records}]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": groups}))
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules()) + len(records)} rules found" in checked.stdout


def test_each_alert_fires_on_its_condition_and_none_fires_without(promtool: Path, tmp_path: Path) -> None:
    assert set(FIRES) == {rule["alert"] for rule in rules()}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "phi3", "rules": rules()}]}))
    cases = [_case(alert, series, {alert}) for alert, series in FIRES.items()] + [_case("none", QUIET, set())]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": cases}))
    tested = subprocess.run(
        [promtool, "test", "rules", tmp_path / "cases.yaml"], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def _case(name: str, series: dict[str, str], firing: set[str]) -> dict[str, Any]:
    """Return a promtool test case: after 45 minutes of `series`, the alerts in `firing` fire and no others."""
    alerts = FIRES if name == "none" else firing
    samples = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
            "eval_time": "45m",
            "exp_samples": [{"labels": "{}", "value": float(alert in firing)}],
        }
        for alert in alerts
    ]
    series_list = [{"series": series_name, "values": values} for series_name, values in series.items()]
    return {"name": name, "interval": "1m", "input_series": series_list, "promql_expr_test": samples}
