package ocmf_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gridveil/ev/ocmf"
)

// conformance returns a file of the public vectors, or skips the test and says so.
func conformance(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("GRIDVEIL_CONFORMANCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "conformance")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("public vectors are absent (set GRIDVEIL_CONFORMANCE): %v", err)
	}
	return b
}

// The transparency software verifies each record with the key beside it; this is what it says of its own samples.
func TestPublicSamplesVerifyAsInTheTransparencySoftware(t *testing.T) {
	for name, want := range map[string][]string{
		"20211007-device-with-evt-ocmf-sss-ses.xml": {"", ""},
		"OCMF-receipt-with_publickey_and_data.xml":  {""},
		"OCMF_Test_Data_00.xml":                     {"", ""},
		"brainpoolP256r1.xml":                       {"", ""},
		"nistP384_0Wh.xml":                          {"", ""},
		"keba_test_txn.xml":                         make([]string, 100),
		"ocmf_tariff_1.xml":                         {""},
		"second_key_fail_ocmf.xml":                  {"", "algorithm"},
		"test_ocmf_ebee_01.xml":                     {"", ""},
		"test_ocmf_keba_kcp30_fail.xml":             {"signature"},
		"test_ocmf_transaction_two_values.xml":      {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			raw := conformance(t, filepath.Join("ocmf", name))
			entries, err := ocmf.ParseContainer(raw)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != len(want) {
				t.Fatalf("got %d values, want %d", len(entries), len(want))
			}
			for i, e := range entries {
				if got := verdict(e); got != want[i] {
					t.Errorf("value %d: got %q, want %q", i, got, want[i])
				}
			}
		})
	}
}

func verdict(e ocmf.Entry) string {
	r, err := ocmf.Parse(e.Record)
	if err == nil {
		var key ocmf.PublicKey
		if key, err = ocmf.ParseKey(e.Key); err == nil {
			err = r.Verify(key)
		}
	}
	return reason(err)
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := err.(*ocmf.ErrOCMF); ok {
		return string(e.Reason)
	}
	return "untyped: " + err.Error()
}

func TestContainerWithValuesThatAreNotBase64IsRefused(t *testing.T) {
	_, err := ocmf.ParseContainer(conformance(t, "ocmf/test_input_xml_two_values.xml"))
	if !errors.Is(err, ocmf.ErrContainer) {
		t.Errorf("got %v, want ErrContainer", err)
	}
}

func TestWycheproofBrainpool(t *testing.T) {
	raw := conformance(t, "wycheproof/ecdsa_brainpoolP256r1_sha256_test.json")
	var file struct {
		TestGroups []struct {
			PublicKeyDer string
			Tests        []struct {
				TcID            int
				Comment, Result string
				Msg, Sig        string
			}
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range file.TestGroups {
		key, err := ocmf.ParseKey(g.PublicKeyDer)
		if err != nil {
			t.Errorf("key: %v", err)
			continue
		}
		for _, c := range g.Tests {
			msg, _ := hex.DecodeString(c.Msg)
			sig, _ := hex.DecodeString(c.Sig)
			r := ocmf.Record{Body: msg, SA: "ECDSA-brainpoolP256r1-SHA256", SD: sig}
			if got := r.Verify(key) == nil; got != (c.Result == "valid") {
				t.Errorf("vector %d (%s): accepted %v, want %s", c.TcID, c.Comment, got, c.Result)
			}
			n++
		}
	}
	t.Logf("%d vectors", n)
}
