package verifier_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/writer"
)

// copied is what a writer has, as an export reads it.
type copied struct {
	w       *writer.Writer
	carried []byte
}

func (c copied) Checkpoint() ([]byte, error) { _, note := c.w.Final(); return note, nil }

func (c copied) Carried() ([]byte, error) { return c.carried, nil }

func (c copied) Bundle(n uint64, width int) (b []byte, err error) {
	for i := range width {
		raw, err := c.w.Entry(n*256 + uint64(i))
		if err != nil {
			return nil, err
		}
		b = ledger.AppendBundle(b, raw)
	}
	return b, nil
}

// TestAShardIsWrittenCosignedAndServedFromFlatFiles runs two logs of one ledger
// with a writer and cosigning verifiers each. Between them the first is exported
// to flat files and its store is gone: a verifier still follows it from any web
// server, and the shards are judged in a row.
func TestAShardIsWrittenCosignedAndServedFromFlatFiles(t *testing.T) {
	s := scene.New(t, 7).Begin()
	s.Transfers(300)
	var dirs []string
	var policy *ledger.Policy
	var carried []byte
	for year := range 2 {
		machine := func() ledger.Machine {
			if year == 0 {
				return ledger.NewMoney(scene.Origin)
			}
			m, err := ledger.NewHeir(scene.Origin, scene.Origin+"/2027", carried)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		tw := town.New(t, s)
		here, log, next := s.Here, s.Log, []byte(nil)
		if year == 0 {
			policy = tw.Policy
			log, _, next = s.GoOn(scene.Origin + "/2027")
		} else {
			s.Transfers(40)
			log = s.Log
		}
		cfg := tw.WriterConfig()
		cfg.Machine = machine()
		w, stop := tw.Writer(cfg)
		for _, name := range []string{"uta", "utb"} {
			vcfg := tw.VerifierConfig(name)
			vcfg.Machine = machine()
			tw.Verifier(vcfg)
		}
		for at := 0; at < len(log); at += 100 {
			tw.Submit(w, log[at:min(at+100, len(log))])
		}
		tw.Final(w, uint64(len(log)))
		stop()
		cfg.Machine = machine() // it recovers from snapshot and journal like any log
		w, _ = tw.Writer(cfg)
		tw.Final(w, uint64(len(log)))
		dir := filepath.Join(t.TempDir(), "sealed")
		if _, err := export.Archive(dir, copied{w, carried}, export.Config{Policy: tw.Policy}); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)

		// A new verifier, with the log away: the folder is served by whom you like.
		tw.Net.Put("log", nil)
		tw.Net.Put("files", http.FileServer(http.Dir(dir)))
		late := tw.VerifierConfig("independent")
		late.Machine = machine()
		late.Policy = tw.Policy.As(here)
		late.Policy.LogURL = "http://files"
		v, _ := tw.Verifier(late)
		if _, err := v.Look(context.Background(), "", true); err != nil {
			t.Fatal(err)
		}
		if got := v.Status(); got.Size != uint64(len(log)) || got.Objection != nil || got.Evidence != nil {
			t.Errorf("year %d: %+v", year, got)
		}
		carried = next
	}
	list, err := export.VerifyShards(dirs, policy)
	if err != nil || len(list) != 2 || !list[1].Trusted {
		t.Fatalf("%+v, %v", list, err)
	}
}
