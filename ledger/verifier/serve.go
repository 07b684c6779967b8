package verifier

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"gridveil/ledger"
)

// maxEvidence is the longest evidence: two checkpoints and a proof.
const maxEvidence = 2*ledger.MaxCheckpoint + 64*32 + 1024

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
	byOrigin := map[string]*Verifier{}
	for _, v := range list {
		byOrigin[v.origin] = v
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", func(w http.ResponseWriter, r *http.Request) { addCheckpoint(w, r, byOrigin) })
	for _, v := range list {
		hash := ledger.OriginHash(v.origin)
		v.serveCopy(mux, "/"+hex.EncodeToString(hash[:]))
	}
	return mux
}

// serveCopy mounts what is served of one log.
func (v *Verifier) serveCopy(mux *http.ServeMux, prefix string) {
	mux.HandleFunc("GET "+prefix+"/checkpoint", v.getCheckpoint)
	mux.HandleFunc("GET "+prefix+"/tile/{path...}", v.getTile)
	for _, name := range []string{noteEvidence, noteObjection, noteBadEntry} {
		mux.HandleFunc("GET "+prefix+"/"+name, func(w http.ResponseWriter, _ *http.Request) { v.served(w, name) })
	}
}

// Mirror serves our copy of the log in the log's own place and answers GET
// alone, so that outsiders and repairs need not ask the log:
//
//	GET /checkpoint                          the newest we replayed, with our cosignature
//	GET /tile/<L>/<N>[.p/<W>]                tiles and entry bundles up to it
//	GET /proof/<index>                       .tlog-proof, once our copy is final by the policy
//	GET /evidence, /objection, /bad-entry    what convicts the log, 404 without
//	GET /<sha256(origin)>/...                the same, as Handler serves it
//
// Source: C2SP tlog-mirror, tlog-tiles.
func (v *Verifier) Mirror() http.Handler {
	mux := http.NewServeMux()
	v.serveCopy(mux, "")
	mux.HandleFunc("GET /proof/{index}", v.getProof)
	hash := ledger.OriginHash(v.origin)
	v.serveCopy(mux, "/"+hex.EncodeToString(hash[:]))
	return mux
}

func (v *Verifier) getTile(w http.ResponseWriter, r *http.Request) {
	cosigned, _ := v.store.Signed()
	v.store.ServeTile(w, "tile/"+r.PathValue("path"), cosigned)
}

func (v *Verifier) getProof(w http.ResponseWriter, r *http.Request) {
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 62)
	if err != nil {
		http.Error(w, "want /proof/<index of an entry>", http.StatusBadRequest)
		return
	}
	_, note := v.Cosigned()
	c, err := v.cfg.Policy.OpenFinal(note)
	if err != nil || index >= c.Size {
		http.Error(w, "the entry is not final here yet", http.StatusNotFound)
		return
	}
	hashes, err := v.store.ProveInclusion(index, c)
	if err != nil {
		v.cfg.Log.Error("proof cannot be made", "err", err)
		http.Error(w, "the proof cannot be made", http.StatusServiceUnavailable)
		return
	}
	p := ledger.Proof{Index: index, Hashes: hashes, Checkpoint: note}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(p.Encode()) // the client is gone if this fails
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
