# Stand-in for localai/localai: the real llama.cpp engine (xllamacpp wheel) with a tiny random model behind LocalAI's port,
# /readyz, API key and jobs. Its words are noise, its serving is real.
FROM croft-test/base:slim
COPY python /opt/engine
COPY engine.py tiny.gguf /opt/engine/
ENV PYTHONPATH=/opt/engine
EXPOSE 8080
ENTRYPOINT ["/usr/bin/python3", "/opt/engine/engine.py"]
