# docker build -t finetuning-scripts .                             for CPUs
# docker build -t finetuning-scripts --build-arg DEVICE=cuda .     for NVIDIA GPUs
# docker run --rm finetuning-scripts                               every script on built-in data, one table
# docker run --rm --gpus all -v "$PWD/outputs:/workspace/outputs" finetuning-scripts python run_qa.py --bf16
FROM python:3.11-slim

# cpu: torch without CUDA's libraries; cuda: the one of PyPI, which brings them.
ARG DEVICE=cpu
WORKDIR /workspace
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg git \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt .
RUN index=$([ "$DEVICE" = cpu ] && echo "--extra-index-url https://download.pytorch.org/whl/cpu" || true) \
    && torch=$(grep '^torch==' requirements.txt) \
    && if [ "$DEVICE" = cpu ]; then torch="$torch+cpu"; fi \
    && pip install --no-cache-dir $index "$torch" -r requirements.txt
COPY . .
CMD ["python", "-m", "benchmarks.demo"]
