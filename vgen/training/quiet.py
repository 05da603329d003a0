"""What libraries say of every training and nobody can do anything about."""

NOISY = (
    "pytorch_lightning",
    "lightning.pytorch",
    "lightning_fabric",
    "deepspeed",
    "DeepSpeed",
    "httpx",
)
"""Loggers whose tips are not shown."""
WARNING_MODULES = "pytorch_lightning|lightning_fabric|torch.distributed|torch.utils.data"
