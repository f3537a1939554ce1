# docker build -t finetuning-scripts .
# docker run --rm finetuning-scripts                               every script on built-in data, one table
# docker run --rm --gpus all -v "$PWD/outputs:/workspace/outputs" finetuning-scripts python run_qa.py --bf16
#
# One image for CPUs and NVIDIA GPUs: torch comes with CUDA's libraries. For CPUs alone it is gigabytes smaller with an
# index of torch's CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL
WORKDIR /workspace
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg git \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
CMD ["python", "-m", "benchmarks.demo"]
