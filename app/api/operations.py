"""Health and metrics routes for operators and orchestrators."""

from http import HTTPStatus
from typing import Any

import psutil
from flask import Response, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import ServiceUnavailable

from app.api.context import loaded_engine, model_server
from app.api.schema import ErrorResponse

GIB = 1024**3
# The Prometheus format, for the OpenAPI document.
TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


class Health(BaseModel):
    """Response of the health routes."""

    status: str = Field(description="always Healthy")


class Memory(BaseModel):
    """Memory of a device."""

    used: str = Field(description='in GiB, for example "1.00 GB"')
    total: str = Field(description='in GiB, for example "2.00 GB"')


class Gpu(BaseModel):
    """One GPU, in KAITO's format."""

    id: str = Field(description="UUID")
    name: str = Field(description="product name")
    load: str = Field(description='for example "25.00%"')
    temperature: str = Field(description='for example "55 C"')
    memory: Memory


class Cpu(BaseModel):
    """The CPU, in KAITO's format."""

    load_percentage: float = Field(description="mean of all cores since the previous request")
    physical_cores: int | None
    total_cores: int | None
    memory: Memory


class MachineMetrics(BaseModel):
    """Response of `/metrics` as JSON, in KAITO's format."""

    model_config = ConfigDict(openapi_extra=TEXT)  # type: ignore[typeddict-unknown-key]

    gpu_info: list[Gpu] | None = Field(None, description="null without a GPU")
    cpu_info: Cpu | None = Field(None, description="null with a GPU")


HEALTH: dict[int | str | HTTPStatus, type[BaseModel] | dict[str, Any] | None] = {200: Health, 503: ErrorResponse}

psutil.cpu_percent()  # the first call starts the measurement


blueprint = APIBlueprint("operations", __name__, abp_tags=[Tag(name="operations", description="health and metrics")])


@blueprint.get(
    "/livez", summary="Liveness: fails if the process must be restarted", operation_id="livez", responses=HEALTH
)
def livez() -> Response:
    """Return 200 while the engine makes progress or the model loads."""
    return _healthy_if_alive()


@blueprint.get(
    "/readyz", summary="Readiness: fails if no requests are accepted", operation_id="readyz", responses=HEALTH
)
def readyz() -> Response:
    """Return 200 while the server accepts requests."""
    loaded_engine()
    return _healthy_if_alive()


@blueprint.get(
    "/startupz", summary="Startup: fails until the model is loaded", operation_id="startupz", responses=HEALTH
)
def startupz() -> Response:
    """Return 200 once the model is loaded."""
    if not model_server().loaded:
        loaded_engine()
    return jsonify(status="Healthy")


@blueprint.get("/healthz", summary="KAITO's name for /readyz", operation_id="healthz", responses=HEALTH)
def healthz() -> Response:
    """Return 200 while the server accepts requests."""
    loaded_engine()
    return _healthy_if_alive()


@blueprint.get(
    "/metrics",
    summary="Metrics for Prometheus, or with Accept: application/json the load of the machine in KAITO's format",
    operation_id="metrics",
    responses={200: MachineMetrics},
)
def metrics() -> Response:
    """Return metrics in the format that the client prefers."""
    preferred = request.accept_mimetypes.best_match(["text/plain", "application/openmetrics-text", "application/json"])
    if preferred == "application/json":
        return jsonify(_machine().model_dump())
    return Response(model_server().metrics.text(), content_type=CONTENT_TYPE_LATEST)


def _healthy_if_alive() -> Response:
    if not model_server().alive:
        raise ServiceUnavailable(
            "The engine is dead, or made no progress for CHAT_STALL_SECONDS. Restart the server; see its log."
        )
    return jsonify(status="Healthy")


def _machine() -> MachineMetrics:
    import torch  # takes seconds, unless the loading thread has imported it already

    if torch.cuda.is_available():
        return MachineMetrics(gpu_info=[_gpu(number) for number in range(torch.cuda.device_count())])
    memory = psutil.virtual_memory()
    return MachineMetrics(
        cpu_info=Cpu(
            load_percentage=psutil.cpu_percent(),
            physical_cores=psutil.cpu_count(logical=False),
            total_cores=psutil.cpu_count(),
            memory=_memory(memory.used, memory.total),
        )
    )


def _gpu(number: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    properties = torch.cuda.get_device_properties(number)
    return Gpu(
        id=str(properties.uuid),
        name=properties.name,
        load=f"{torch.cuda.utilization(number):.2f}%",
        temperature=f"{torch.cuda.temperature(number)} C",
        memory=_memory(total - free, total),
    )


def _memory(used: int, total: int) -> Memory:
    return Memory(used=f"{used / GIB:.2f} GB", total=f"{total / GIB:.2f} GB")
