"""The JSON API: responses, and agreement with `Model.score`."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from servers import PREDICT, error_of, post, running
from tiny_model import overflowing_model

from vqlab.model import Model
from vqlab.serve import ServeSettings
from vqlab.tracking import CHECKPOINT, Tracker


@pytest.fixture(scope="module")
def model(trained_store: Path) -> Model:
    return Model.load(Tracker.open(trained_store).champion("part").checkpoint, "cpu")


def test_categories(server: str, model: Model) -> None:
    lid, part = requests.get(f"{server}/v1/categories", timeout=10).json()
    assert (lid["category"], part["category"]) == ("lid", "part")
    assert part["version"] == 1 and part["detector"] == "vqvae" and len(part["run_id"]) == 32
    assert part["thresholds"]["image"] == model.thresholds.image
    assert part["thresholds"]["pixel"] == model.thresholds.pixel


def test_score_of_a_single_image_equals_that_of_the_model(
    server: str, model: Model, defect_file: Path
) -> None:
    body = post(server, defect_file.read_bytes(), category="part", map=1, overlay=1).json()
    (image,), expected = body["images"], model.score(defect_file)
    assert (image["score"], image["verdict"]) == (expected.score, expected.verdict)
    assert image["calibrated"] == expected.calibrated
    assert (image["name"], image["width"], image["height"]) == ("0.png", 32, 32)
    regions = [vars(region) for region in expected.regions()]
    assert image["regions"] == json.loads(json.dumps(regions))
    values = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["map"]))))
    low, high = image["map_range"]
    restored = low + values / 65535 * (high - low)
    np.testing.assert_allclose(restored, expected.anomaly_map, atol=(high - low) / 65535)
    overlay = Image.open(io.BytesIO(base64.b64decode(image["overlay"])))
    assert overlay.size == (32, 32) and overlay.mode == "RGB"
    assert (body["category"], body["version"]) == ("part", 1)


def test_map_and_overlay_are_null_unless_requested(server: str, good_file: Path) -> None:
    (image,) = post(server, good_file.read_bytes(), category="part").json()["images"]
    assert image["map"] is image["map_range"] is image["overlay"] is image["error"] is None


def test_shape_unlike_that_of_training_images_is_noted(server: str, good_file: Path) -> None:
    wide = io.BytesIO()
    Image.new("RGB", (64, 32)).save(wide, "PNG")
    notes = [
        post(server, content, category="part").json()["images"][0]["note"]
        for content in (good_file.read_bytes(), wide.getvalue())
    ]
    assert notes[0] is None and notes[1].startswith("it is 64x32 pixels, an aspect ratio of 2, but")


def test_json_and_multipart_give_the_same_response(server: str, defect_file: Path) -> None:
    content = defect_file.read_bytes()
    encoded = {"images": [{"name": "0.png", "data": base64.b64encode(content).decode()}]}
    address = f"{server}{PREDICT}?category=part&map=1"
    assert requests.post(address, json=encoded, timeout=30).json() == (
        post(server, content, category="part", map=1).json()
    )


def test_several_images_keep_their_order(server: str, model: Model, images: Path) -> None:
    files = sorted((images / "part" / "test").rglob("*.png"))
    body = post(server, *(file.read_bytes() for file in files), category="part").json()
    assert [image["name"] for image in body["images"]] == [f"{i}.png" for i in range(len(files))]
    expected = [model.score(file).score for file in files]
    # on a CPU, images are scored one by one
    assert [i["score"] for i in body["images"]] == expected


def test_queued_images_are_scored_in_one_batch(
    trained_store: Path, model: Model, images: Path
) -> None:
    files = sorted((images / "part" / "test").rglob("*.png"))
    settings = ServeSettings(mlruns=trained_store, categories=("part",), max_batch=8)
    with running(settings) as address:
        body = post(address, *(file.read_bytes() for file in files)).json()
        metrics = requests.get(f"{address}/metrics", timeout=10).text
    scores = [image["score"] for image in body["images"]]
    np.testing.assert_allclose(scores, [model.score(file).score for file in files], rtol=1e-5)
    (count,) = [line for line in metrics.splitlines() if "batch_images_count" in line]
    (total,) = [line for line in metrics.splitlines() if "batch_images_sum" in line]
    assert float(total.split()[-1]) == len(files) > float(count.split()[-1])


def test_each_category_has_its_own_model(server: str, good_file: Path) -> None:
    content = good_file.read_bytes()
    part, lid = (post(server, content, category=name).json() for name in ("part", "lid"))
    assert part["run_id"] != lid["run_id"]
    assert part["images"][0]["score"] != lid["images"][0]["score"]


def test_another_version(server: str, good_file: Path) -> None:
    content = good_file.read_bytes()
    first, second = (post(server, content, category="part", version=n).json() for n in (1, 2))
    assert (first["version"], second["version"]) == (1, 2)
    assert first["images"][0]["score"] != second["images"][0]["score"]
    missing = post(server, content, category="part", version=9)
    assert missing.status_code == 404
    assert error_of(missing) == "part has no version 9; available: 2, 1."


def test_category_must_be_served(server: str, good_file: Path) -> None:
    unknown = post(server, good_file.read_bytes(), category="prat")
    assert unknown.status_code == 404
    assert error_of(unknown) == "category 'prat' is not served; did you mean part?"
    omitted = post(server, good_file.read_bytes())
    assert omitted.status_code == 404
    assert error_of(omitted) == "category must be one of lid, part; got none."


def test_category_may_be_omitted_if_there_is_one(trained_store: Path, good_file: Path) -> None:
    settings = ServeSettings(mlruns=trained_store, categories=("lid",))
    with running(settings) as address:
        assert post(address, good_file.read_bytes()).json()["category"] == "lid"


def test_invalid_image_does_not_fail_the_others(server: str, good_file: Path) -> None:
    body = post(server, good_file.read_bytes(), b"text", category="part").json()
    good, bad = body["images"]
    assert good["verdict"] in ("pass", "reject") and good["error"] is None
    assert bad["error"].startswith("the image must be a PNG") and bad["score"] is None


def test_scores_that_are_not_finite_fail_their_image_only(mlruns: Path, good_file: Path) -> None:
    tracker = Tracker.open(mlruns)
    champion = tracker.champion("part")
    overflowing_model().save(champion.checkpoint)
    version = tracker.registry.register(champion.run_id, CHECKPOINT, "part")
    tracker.registry.set_champion(version, champion)
    black = io.BytesIO()
    Image.new("RGB", (32, 32)).save(black, "PNG")
    with running(ServeSettings(mlruns=mlruns, categories=("part",), device="cpu")) as address:
        body = post(address, good_file.read_bytes(), black.getvalue()).json()
    infinite, finite = body["images"]
    assert infinite["score"] is None and "got NaN or infinity" in infinite["error"]
    assert finite["score"] == 0 and finite["error"] is None


def test_min_area_omits_regions(server: str, defect_file: Path) -> None:
    content = defect_file.read_bytes()
    (image,) = post(server, content, category="part").json()["images"]
    assert image["verdict"] == "reject" and image["regions"][0]["rank"] == 1
    assert image["regions"][0]["area"] >= 1 and len(image["regions"][0]["box"]) == 4
    (image,) = post(server, content, category="part", min_area=1025).json()["images"]
    assert image["verdict"] == "reject" and image["regions"] == []


def test_invalid_parameter(server: str, good_file: Path) -> None:
    response = post(server, good_file.read_bytes(), category="part", version="two")
    assert response.status_code == 422 and "version" in error_of(response)


def test_documentation_is_a_page_without_scripts(server: str) -> None:
    page = requests.get(f"{server}/docs", timeout=10)
    assert "POST /v1/predict" in page.text and "map_range" in page.text
    assert "<script" not in page.text and "http://" not in page.text.replace(server, "")
    assert "https://" not in page.text
    paths = requests.get(f"{server}/openapi.json", timeout=10).json()["paths"]
    assert {"/v1/predict", "/v1/categories", "/healthz", "/readyz", "/metrics"} <= set(paths)


def test_metrics_count_requests_images_and_versions(server: str, good_file: Path) -> None:
    post(server, good_file.read_bytes(), category="part")
    text = requests.get(f"{server}/metrics", timeout=10).text
    assert 'vqlab_champion_version{category="part"} 1.0' in text
    assert 'vqlab_requests_total{route="/v1/predict",status="200"}' in text
    assert 'vqlab_images_total{category="part",verdict=' in text
    assert "vqlab_images_in_progress 0.0" in text


def test_unknown_paths_share_one_label(server: str) -> None:
    missing = requests.get(f"{server}/v1/secret-name", timeout=10)
    assert missing.status_code == 404 and error_of(missing)
    assert "secret-name" not in requests.get(f"{server}/metrics", timeout=10).text


def test_ready_and_alive(server: str) -> None:
    assert requests.get(f"{server}/healthz", timeout=10).json() == {"status": "ok"}
    ready = requests.get(f"{server}/readyz", timeout=10).json()
    assert ready == {"status": "ready", "categories": {"lid": 1, "part": 1}}
