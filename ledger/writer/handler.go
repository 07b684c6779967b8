package writer

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"gridveil/ledger"
)

// maxRequestBody is a full request with its frames.
const maxRequestBody = ledger.MaxRequest + 2*ledger.MaxRequestEntries

// retryAfter is what a busy writer asks for, in seconds: a few groups.
const retryAfter = "1"

// Handler serves the log over HTTP:
//
//	GET  /checkpoint                     newest final checkpoint
//	GET  /tile/<L>/<N>[.p/<W>]           tiles up to the newest signed size
//	GET  /tile/entries/<N>[.p/<W>]       entry bundles
//	GET  /proof/<index>                  .tlog-proof under the newest final checkpoint
//	POST /entries                        bundle of entries; answer as EncodeResults
//
// Source: C2SP tlog-tiles; design/ledger.md, section 3.
func (w *Writer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", w.getCheckpoint)
	mux.HandleFunc("GET /tile/", func(rw http.ResponseWriter, r *http.Request) {
		signed, _ := w.store.Signed()
		w.store.ServeTile(rw, strings.TrimPrefix(r.URL.Path, "/"), signed)
	})
	mux.HandleFunc("GET /proof/{index}", w.getProof)
	mux.HandleFunc("POST /entries", w.postEntries)
	return mux
}

func (w *Writer) getCheckpoint(rw http.ResponseWriter, r *http.Request) {
	_, msg := w.Final()
	if msg == nil {
		http.Error(rw, "no checkpoint is final yet", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	rw.Write(msg) // the client is gone if this fails
}

func (w *Writer) getProof(rw http.ResponseWriter, r *http.Request) {
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 62)
	if err != nil {
		http.Error(rw, "want /proof/<index of an entry>", http.StatusBadRequest)
		return
	}
	p, err := w.Proof(index)
	switch {
	case errors.Is(err, ledger.ErrMalformed):
		http.Error(rw, "the entry is not final yet", http.StatusNotFound)
	case err != nil:
		w.cfg.Log.Error("proof cannot be made", "err", err)
		http.Error(rw, "the proof cannot be made", http.StatusServiceUnavailable)
	default:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "no-store")
		rw.Write(p.Encode()) // the client is gone if this fails
	}
}

func (w *Writer) postEntries(rw http.ResponseWriter, r *http.Request) {
	if err := w.store.Err(); err != nil {
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		return
	}
	var other *NotLeaderError
	if err := w.intake.refused(); errors.As(err, &other) {
		rw.Header().Set(leaderHeader, other.Leader)
		rw.Header().Set("Retry-After", retryAfter)
		http.Error(rw, err.Error(), http.StatusMisdirectedRequest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequestBody))
	if err != nil {
		http.Error(rw, "request cannot be read or is above "+strconv.Itoa(maxRequestBody)+" bytes", http.StatusRequestEntityTooLarge)
		return
	}
	raw, err := ledger.ParseBundle(body, ledger.MaxRequestEntries)
	if err == nil && len(raw) == 0 {
		err = errors.New("the request holds no entry")
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	results := w.SubmitAs(r.Context(), w.cfg.Submitter(r), raw)
	status := http.StatusOK
	for _, x := range results {
		switch {
		case errors.Is(x.Err, ledger.ErrHalted):
			status = http.StatusServiceUnavailable
		case errors.Is(x.Err, ledger.ErrBusy) && status == http.StatusOK:
			status = http.StatusTooManyRequests
		}
	}
	if status != http.StatusOK {
		rw.Header().Set("Retry-After", retryAfter)
	}
	rw.Header().Set("Content-Type", resultsType)
	rw.WriteHeader(status)
	rw.Write(EncodeResults(results)) // the client sends again if this fails
}

// leaderHeader names, with status 421, the member ID of who takes entries now; it
// is empty while nobody does.
const leaderHeader = "Gridveil-Leader"

// resultsType marks an answer that ParseResults reads, whatever its status.
const resultsType = "application/vnd.gridveil.results"
