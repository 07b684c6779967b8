package verifier

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"gridveil/ledger"
)

// maxRequest bounds POST /add-checkpoint: 63 proof lines and a note.
const maxRequest = ledger.MaxCheckpoint + 64*64

// Handler serves verifiers of different logs as one witness:
//
//	POST /add-checkpoint                     judge and cosign
//	GET  /<sha256(origin)>/checkpoint        the newest cosigned checkpoint
//	GET  /<sha256(origin)>/tile/...          our copy of the log
//	GET  /<sha256(origin)>/evidence          that the log shows two histories
//	GET  /<sha256(origin)>/objection         to an entry that we must refuse
//	GET  /<sha256(origin)>/bad-entry         the evidence that it is in the log
//
// Source: C2SP tlog-witness; design/ledger.md, 4.9 and 4.10.
func Handler(list ...*Verifier) http.Handler {
	byOrigin, byHash := map[string]*Verifier{}, map[string]*Verifier{}
	for _, v := range list {
		hash := ledger.OriginHash(v.origin)
		byOrigin[v.origin], byHash[hex.EncodeToString(hash[:])] = v, v
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", func(w http.ResponseWriter, r *http.Request) { addCheckpoint(w, r, byOrigin) })
	get := func(path string, f func(*Verifier, http.ResponseWriter, *http.Request)) {
		mux.HandleFunc("GET /{hash}/"+path, func(w http.ResponseWriter, r *http.Request) {
			if v := byHash[r.PathValue("hash")]; v != nil {
				f(v, w, r)
				return
			}
			http.Error(w, "this log is not followed here", http.StatusNotFound)
		})
	}
	get("checkpoint", (*Verifier).getCheckpoint)
	get("tile/{path...}", func(v *Verifier, w http.ResponseWriter, r *http.Request) {
		cosigned, _ := v.store.Signed()
		v.store.ServeTile(w, "tile/"+r.PathValue("path"), cosigned)
	})
	for _, name := range []string{noteEvidence, noteObjection, noteBadEntry} {
		get(name, func(v *Verifier, w http.ResponseWriter, _ *http.Request) { v.served(w, name) })
	}
	return mux
}

func (v *Verifier) getCheckpoint(w http.ResponseWriter, _ *http.Request) {
	_, note := v.Cosigned()
	if note == nil {
		http.Error(w, "no checkpoint was cosigned yet", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(note) // the client is gone if this fails
}

func addCheckpoint(w http.ResponseWriter, r *http.Request, byOrigin map[string]*Verifier) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "request cannot be read or is too long", http.StatusBadRequest)
		return
	}
	req, err := ledger.ParseAddCheckpoint(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	origin, _, _ := bytes.Cut(req.Checkpoint, []byte("\n"))
	v := byOrigin[string(origin)]
	if v == nil {
		http.Error(w, "this log is not followed here", http.StatusNotFound)
		return
	}
	lines, err := v.AddCheckpoint(r.Context(), req)
	if err != nil {
		answerRefusal(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(lines) // the log asks again if this fails
}

// answerRefusal writes the status that the witness protocol demands.
func answerRefusal(w http.ResponseWriter, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{status: http.StatusServiceUnavailable, err: err}
	}
	switch no.status {
	case http.StatusConflict:
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(no.status)
		fmt.Fprintf(w, "%d\n", no.size) // the log asks again if this fails
		return
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, strings.ReplaceAll(err.Error(), "\n", "; "), no.status)
}
