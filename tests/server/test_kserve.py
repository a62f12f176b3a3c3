"""The InferenceService of KServe: what it asks of the server is there, and no field is one that Knative refuses."""

from pathlib import Path

import yaml
from installed import ROOT
from server.serving import needs_server, serving

service = yaml.safe_load((ROOT / "examples/server/kserve.yaml").read_text())
predictor = service["spec"]["predictor"]
(container,) = predictor["containers"]
arguments = dict(argument.removeprefix("--").split("=") for argument in container["args"][1:])

ALLOWED = {"containers", "serviceAccountName", "volumes", "imagePullSecrets", "enableServiceLinks"}
"""Of a pod's fields, by knative/serving's pkg/apis/serving/fieldmask.go; Knative refuses, say, a grace period."""
OF_KSERVE = {"timeout", "minReplicas", "maxReplicas", "containerConcurrency", "scaleTarget", "scaleMetric"}


def test_knative_accepts_it() -> None:
    assert predictor.keys() <= ALLOWED | OF_KSERVE
    assert container["name"] == "kserve-container"
    # In Knative it is the grace period of the pod too; elsewhere that is 30 s.
    end = (int(arguments["grace"]) + int(arguments["deadline"])) / 1000 + 10
    assert end < predictor["timeout"] <= 30


@needs_server
def test_the_server_takes_its_arguments_and_answers_its_probes(engine: Path) -> None:
    with serving(engine, *(argument for argument in container["args"][1:] if "--port" not in argument)) as server:
        for probe in ("readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert server.get(asked["path"]).status == 200
            assert asked["port"] == int(arguments["port"]) == container["ports"][0]["containerPort"]
        assert server.get(service["metadata"]["annotations"]["prometheus.io/path"]).status == 200
        assert server.get(f"/v2/models/{service['metadata']['name']}").status == 200
