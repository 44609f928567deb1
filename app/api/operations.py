"""What operators and their machines ask: is it alive, ready, started, and how is it doing."""

from http import HTTPStatus
from typing import Any

import psutil
from flask import Response, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import ServiceUnavailable

from app.api.chat.schema import ErrorResponse
from app.model_server import Runtime

GIB = 1024**3
# Prometheus' form of the same answer, for the OpenAPI document.
TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


class Health(BaseModel):
    """Answer of the health routes."""

    status: str = Field(description="Healthy")


class Memory(BaseModel):
    """Memory of a device."""

    used: str = Field(description='in GiB, such as "1.00 GB"')
    total: str = Field(description='in GiB, such as "2.00 GB"')


class Gpu(BaseModel):
    """One GPU, in KAITO's shape."""

    id: str = Field(description="UUID")
    name: str = Field(description="product name")
    load: str = Field(description='such as "25.00%"')
    temperature: str = Field(description='such as "55 C"')
    memory: Memory


class Cpu(BaseModel):
    """The CPU, in KAITO's shape."""

    load_percentage: float = Field(description="since the last request, over all cores")
    physical_cores: int | None
    total_cores: int | None
    memory: Memory


class MachineMetrics(BaseModel):
    """Answer of `/metrics` as JSON, in KAITO's shape."""

    model_config = ConfigDict(openapi_extra=TEXT)  # type: ignore[typeddict-unknown-key]

    gpu_info: list[Gpu] | None = Field(None, description="null without a GPU")
    cpu_info: Cpu | None = Field(None, description="null with a GPU")


def blueprint(runtime: Runtime) -> APIBlueprint:
    """Build the blueprint of the operations routes over `runtime`."""
    operations = APIBlueprint(
        "operations", __name__, abp_tags=[Tag(name="operations", description="health and metrics")]
    )
    psutil.cpu_percent()  # the first call begins to measure
    not_ready: dict[int | str | HTTPStatus, type[BaseModel] | dict[str, Any] | None] = {200: Health, 503: ErrorResponse}

    @operations.get("/livez", summary="Whether to leave the process running", operation_id="livez", responses=not_ready)
    def livez() -> Response:
        return _healthy_if_alive(runtime)

    @operations.get("/readyz", summary="Whether to send requests", operation_id="readyz", responses=not_ready)
    def readyz() -> Response:
        runtime.ready()
        return _healthy_if_alive(runtime)

    @operations.get("/startupz", summary="Whether the model is loaded", operation_id="startupz", responses=not_ready)
    def startupz() -> Response:
        if not runtime.loaded:
            runtime.ready()
        return jsonify(status="Healthy")

    @operations.get("/healthz", summary="KAITO's name for /readyz", operation_id="healthz", responses=not_ready)
    def healthz() -> Response:
        runtime.ready()
        return _healthy_if_alive(runtime)

    @operations.get(
        "/metrics",
        summary="Metrics for Prometheus, or with Accept: application/json the machine's load as KAITO tells it",
        operation_id="metrics",
        responses={200: MachineMetrics},
    )
    def metrics() -> Response:
        wanted = request.accept_mimetypes.best_match(["text/plain", "application/openmetrics-text", "application/json"])
        if wanted == "application/json":
            return jsonify(_machine().model_dump())
        return Response(runtime.metrics.text(), content_type=CONTENT_TYPE_LATEST)

    return operations


def _healthy_if_alive(runtime: Runtime) -> Response:
    if not runtime.alive:
        raise ServiceUnavailable("The engine is dead, or made no step for CHAT_STALL_SECONDS: restart the server.")
    return jsonify(status="Healthy")


def _machine() -> MachineMetrics:
    import torch  # takes seconds; the loading thread has it by the time that anybody asks

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
