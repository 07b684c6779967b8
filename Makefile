# gridveil: `make test` is what CI runs; `make demo` shows a neighbourhood on loopback; `make fuzz` tries every decoder for a minute.
export CGO_ENABLED = 0
GO ?= go
BIN ?= gridveil
FUZZTIME ?= 60s

.PHONY: test race fuzz demo bench lint build

build:
	$(GO) build -trimpath -ldflags "-s -w" -o $(BIN) ./cmd/gridveil

test:
	$(GO) vet ./...
	$(GO) test -p 1 -timeout 20m ./...

race:
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./...

# Each fuzz function by itself, in every package that has one; what it finds stays in testdata/fuzz and fails `make test`.
# An input that only reaches new code is shortened for a second at most: the default minute would be the whole run.
fuzz:
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$p/*_test.go); do \
			echo "$$p $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p || exit 1; \
		done; \
	done

demo:
	$(GO) run ./cmd/gridveil demo

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.6.1 ./...
