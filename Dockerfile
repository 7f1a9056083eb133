# An image with the locked environment, for `docker build -t group-emotion .`. It has not been built where this file was
# written. Run the pipeline with the data, the runs and the results of this checkout:
#   docker run --rm -it -v "$PWD:/work" --gpus all group-emotion dvc exp run -S dataset=vgaf -S recipe=paper -S launch=gpu
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends gcc git make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/group-emotion
COPY Makefile README.md pyproject.toml requirements.lock ./
COPY pipeline pipeline
COPY stages stages
RUN make setup
ENV PATH=/opt/group-emotion/.venv/bin:$PATH
WORKDIR /work
CMD ["bash"]
