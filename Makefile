# gridveil: `make test` is what CI runs; `make demo` shows a neighbourhood on loopback.
export CGO_ENABLED = 0
GO ?= go
BIN ?= gridveil

.PHONY: test race demo bench lint build

build:
	$(GO) build -trimpath -ldflags "-s -w" -o $(BIN) ./cmd/gridveil

test:
	$(GO) vet ./...
	$(GO) test -p 1 -timeout 20m ./...

race:
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./...

demo:
	$(GO) run ./cmd/gridveil demo

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.6.1 ./...
