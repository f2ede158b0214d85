"""Programs that take turns with vaejax in a benchmark; `benchmarks.turns` tells them when.

own             vaejax, training
own_sounds      vaejax, making sounds
torch_vae       the default preset's architecture and training step in PyTorch
workshop_tf     a system of the original workshop's shape in TensorFlow and Kapre
librosa_sounds  phases by librosa's Griffin-Lim
"""
