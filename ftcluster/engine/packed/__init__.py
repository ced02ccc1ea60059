"""Many LoRA trials on one frozen base in one process. Import the module that owns the name you need."""
