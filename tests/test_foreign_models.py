"""convert and from_torch with third-party models and trainers: transformers and Lightning."""

import collections
import copy

import pytest
import torch

from conversion_checks import assert_same, compare
from torchnotes import convert, nn, optim

transformers = pytest.importorskip("transformers")
lightning = pytest.importorskip("lightning")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
TOKENS = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0}


def made(name: str, task: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, name + task)(getattr(transformers, name + "Config")(**options))


def resnet() -> torch.nn.Module:
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    return made("ResNet", "ForImageClassification", **sizes)


def mobilenet() -> torch.nn.Module:
    return made(
        "MobileNetV2", "ForImageClassification", depth_multiplier=0.1, num_labels=3, classifier_dropout_prob=0.0
    )


def gpt2(dropout: float = 0.0) -> torch.nn.Module:
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    model = made("GPT2", "LMHeadModel", n_layer=2, n_embd=16, n_head=2, n_positions=12, **TOKENS, **rates)
    model.loss_type = "ForCausalLM"  # the default, set explicitly to avoid a warning that breaks the graph
    return model


def bert(dropout: float = 0.0) -> torch.nn.Module:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return made("Bert", "ForSequenceClassification", num_labels=3, **SIZES, **rates)


def images(count: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 3, 32, 32), "labels": torch.randint(3, (count,))}


def text(count: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(40, (count, 12))
    return {"input_ids": tokens, "labels": tokens}


def sentences(count: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(40, (count, 12)), "labels": torch.randint(3, (count,))}


# The model, its inputs, how many modules are replaced, and into how many layers activations are fused.
CASES = {
    "ResNet": (resnet, images, {"BatchNorm2d": 6, "ReLU": 5, "Linear": 1}, 3),
    "MobileNetV2": (mobilenet, images, {"BatchNorm2d": 52, "Dropout": 1, "Linear": 1}, 0),
    "GPT-2": (gpt2, text, {"Dropout": 7, "Linear": 1}, 0),
    "BERT": (bert, sentences, {"Linear": 14, "Dropout": 8, "Tanh": 1}, 1),
}


class Called(torch.nn.Module):
    """A model whose inputs are given by position, and which returns the loss and the logits."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        return output.loss, output.logits


def called(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    make, inputs, *_ = CASES[name]
    given = inputs(8)
    tensors = (x.double() if x.is_floating_point() else x for x in given.values())
    return Called(make(), tuple(given)).double(), tuple(tensors)


@pytest.mark.parametrize("name", CASES)
def test_same_outputs_gradients_and_buffers(name):
    model, inputs = called(name)
    *_, replaced, fused = CASES[name]
    report = compare(model, *inputs)
    assert collections.Counter(report.replaced.values()) == replaced
    assert len(report.fused) == fused


@pytest.mark.parametrize("name", ("ResNet", "BERT"))
def test_same_training(name):
    model, inputs = called(name)
    ours = copy.deepcopy(model)
    convert(ours)
    losses = []
    for each in (model, ours):
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        if each is ours:
            optim.from_torch(optimizer)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            loss, _ = each(*inputs)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(each.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    # Adam amplifies rounding errors of gradients that should be 0, so that only the losses can be compared.
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ("ResNet", "BERT"))  # one uses our normalizations, the other everything else
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler reads it
def test_compiled_as_one_graph(name):
    model, inputs = called(name)
    ours = copy.deepcopy(model)
    convert(ours)
    torch.compiler.reset()
    assert_same(torch.compile(ours, fullgraph=True, backend="aot_eager"), model, *inputs)


def test_saving_and_loading_with_transformers(tmp_path):
    ours, inputs = resnet(), images(8)
    kind = type(ours)
    convert(ours)
    ours(**inputs)
    ours.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(**inputs).logits, ours.eval()(**inputs).logits)


class Rows(torch.utils.data.Dataset):
    def __init__(self, columns: dict[str, torch.Tensor]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: x[index] for key, x in self.columns.items()}


class Classifier(lightning.LightningModule):
    def __init__(self, ours: bool):
        super().__init__()
        torch.manual_seed(0)
        self.ours, self.losses = ours, []
        self.net = torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 4, 3, stride=2, bias=False), torch.nn.BatchNorm2d(4), torch.nn.LeakyReLU(0.1)),
            *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU()),
            *(torch.nn.Dropout(0.0), torch.nn.Linear(8, 3)),
        )
        self.loss = torch.nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        loss = self.loss(self(batch["pixel_values"]), batch["labels"])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        return [optim.from_torch(optimizer) if self.ours else optimizer], [scheduler]


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # raised by Lightning
def test_lightning_trainer(tmp_path):
    torch.manual_seed(1)
    data = torch.utils.data.DataLoader(Rows(images(24)), batch_size=8)
    models = [Classifier(ours) for ours in (False, True)]
    assert convert(models[1]).fused == {"net.1": "net.2", "net.5": "net.6"}
    for model in models:
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, data)
    assert type(trainer.optimizers[0]) is optim.Adam
    assert isinstance(models[1].loss, nn.CrossEntropyLoss)
    assert len(models[0].losses) == 9
    torch.testing.assert_close(models[1].losses, models[0].losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict(), rtol=1e-3, atol=1e-4)


def test_transformers_trainer(tmp_path):
    torch.manual_seed(1)
    data, histories = Rows(images(16)), []
    for ours in (False, True):
        model = resnet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if ours:
            assert convert(model).replaced
            optim.from_torch(optimizer)
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                output_dir=str(tmp_path / str(ours)),
                max_steps=6,
                per_device_train_batch_size=8,
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=data,
            optimizers=(optimizer, None),
        )
        trainer.train()
        histories.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert type(optimizer) is optim.AdamW
    assert len(histories[0]) == 6
    torch.testing.assert_close(histories[1], histories[0], rtol=1e-3, atol=1e-3)


def test_dropout_of_a_converted_model_is_random_and_seeded():
    model = bert(0.5)
    inputs = sentences(4)
    convert(model)
    logits = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        logits.append(model.train()(**inputs).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    torch.testing.assert_close(model.eval()(**inputs).logits, bert(0.5).eval()(**inputs).logits, rtol=1e-4, atol=1e-5)
