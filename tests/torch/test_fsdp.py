# test_fsdp.py - accelerated models that FSDP2 shards train like transformers' own.
# SPDX-License-Identifier: BSD-3-Clause
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import torch.distributed as dist  # noqa: E402

from t5bucket.transformers import accelerate  # noqa: E402

fully_shard: Any = pytest.importorskip("torch.distributed.fsdp").fully_shard
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions

NUM_STEPS = 3
ORDERS = ("neither", "accelerate then shard", "shard then accelerate")
CHECKPOINTS = (None, True, False)


def make_model(reentrant: bool | None) -> Any:
    config = transformers.T5Config(
        vocab_size=99,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.double().train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def shard(model: Any, mesh: Any) -> None:
    for block in (*model.encoder.block, *model.decoder.block):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def train(order: str, reentrant: bool | None, rank: int, mesh: Any) -> dict[str, Any]:
    """Losses, gradients of the first step and weights after the last, of this rank's shards."""
    model = make_model(reentrant)
    if order == "accelerate then shard":
        accelerate(model)
    shard(model, mesh)
    if order == "shard then accelerate":
        accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(rank)
    token_ids = torch.randint(1, 99, (2, 40), generator=generator)
    mask = (torch.arange(40) < torch.tensor([[40], [23]])).long()
    seen: dict[str, Any] = {}
    for step in range(NUM_STEPS):
        given = {"attention_mask": mask} if step != 1 else {}
        loss = model(input_ids=token_ids, labels=token_ids[:, :9].clone(), **given).loss
        loss.backward()
        seen[f"loss {step}"] = loss.detach().clone()
        if step == 0:
            for name, p in model.named_parameters():
                seen[f"gradient {name}"] = p.grad.to_local().clone()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        seen[f"weight {name}"] = p.detach().to_local().clone()
    return seen


def work(rank: int, world_size: int, folder: str) -> None:
    """Train all models on one rank, and write what was seen."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size) if world_size > 1 else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (world_size,))
        seen = {
            (order, reentrant): train(order, reentrant, rank, mesh)
            for order in ORDERS
            for reentrant in CHECKPOINTS
        }
        torch.save(seen, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def assert_trained_the_same(folder: Path, world_size: int) -> None:
    for rank in range(world_size):
        seen = torch.load(io.BytesIO((folder / f"{rank}.pt").read_bytes()))
        for (order, reentrant), found in seen.items():
            expected = seen["neither", reentrant]
            assert found.keys() == expected.keys()
            assert any("relative_attention_bias" in name for name in found)
            assert torch.equal(found["loss 0"], expected["loss 0"]), order
            for name, value in expected.items():
                assert value.isfinite().all()
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_sharded_model_trains_the_same(world_size: int, tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(world_size), str(tmp_path)])
        for rank in range(world_size)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * world_size
    finally:
        for rank in ranks:
            rank.kill()
    assert_trained_the_same(tmp_path, world_size)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
