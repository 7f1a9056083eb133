# An image with the locked environment, for `docker build -t group-emotion .`. It has not been built where this file was
# written. Run the pipeline in this checkout, as the user who owns it:
#   docker run --rm -it --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" --gpus all group-emotion \
#     dvc exp run -S dataset=vgaf -S recipe=paper -S launch=gpu
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev git make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/group-emotion
COPY Makefile README.md pyproject.toml requirements.lock ./
COPY pipeline pipeline
COPY stages stages
RUN make setup && git config --system --add safe.directory /work
ENV PATH=/opt/group-emotion/.venv/bin:$PATH
WORKDIR /work
CMD ["bash"]
