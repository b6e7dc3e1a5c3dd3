PYTHON ?= .venv/bin/python

.PHONY: build

# The native library of a working tree, incrementally, into kvision/.
build:
	@mkdir -p build
	flock build/.lock sh -ec 'test -f build/dev/build.ninja || $(PYTHON) -m cmake -G Ninja -S . -B build/dev \
		-DPython_EXECUTABLE=$$(realpath -s $(PYTHON)) \
		-DCMAKE_MAKE_PROGRAM=$$($(PYTHON) -c "import ninja; print(ninja.BIN_DIR)")/ninja; $(PYTHON) -m cmake --build build/dev'
