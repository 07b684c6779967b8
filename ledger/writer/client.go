package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"gridveil/ledger"
)

// Client talks to a writer's Handler. It keeps nothing: who submits stores the
// entry first and sends the same bytes until it has a receipt.
type Client struct {
	URL  string       // prefix, without a slash at the end
	HTTP *http.Client // nil means http.DefaultClient
	// Members are the prefixes of all nodes of a cluster by member ID; URL is tried
	// first. Nil means one node.
	Members map[string]string
}

// Submit sends entries and returns a result for each. Its error means that
// nothing is known: send the same bytes again. Receipts are not verified here.
//
// Of a cluster it asks each node at most once: the one that a refusal names, or
// else the next, also when one cannot be reached. It returns the errors of all if
// none takes the entries, among them a NotLeaderError while there is no leader.
func (c *Client) Submit(ctx context.Context, raw [][]byte) ([]Result, error) {
	left := slices.Sorted(maps.Values(c.Members))
	var errs []error
	for url := c.URL; ; {
		results, err := c.submit(ctx, url, raw)
		if err == nil || ctx.Err() != nil {
			return results, err
		}
		errs = append(errs, err)
		left = slices.DeleteFunc(left, func(u string) bool { return u == url })
		if len(left) == 0 {
			return nil, errors.Join(errs...)
		}
		url = left[0]
		var other *NotLeaderError
		if named := errors.As(err, &other); named && slices.Contains(left, c.Members[other.Leader]) {
			url = c.Members[other.Leader]
		}
	}
}

func (c *Client) submit(ctx context.Context, url string, raw [][]byte) ([]Result, error) {
	var body []byte
	for _, e := range raw {
		body = ledger.AppendBundle(body, e)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/entries", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("submit entries: %w", err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	const each = 2 + ledger.MaxReceiptSize + maxText
	status, h, answer, err := c.do(req, int64(each*len(raw)+maxText))
	if err != nil {
		return nil, fmt.Errorf("submit entries: %w", err)
	}
	if status == http.StatusMisdirectedRequest {
		return nil, fmt.Errorf("submit entries: %w", &NotLeaderError{Leader: h.Get(leaderHeader)})
	}
	if kind := h.Get("Content-Type"); kind != resultsType {
		return nil, fmt.Errorf("submit entries: %w", statusError(status, answer))
	}
	return ParseResults(answer, len(raw))
}

// Checkpoint fetches the newest final checkpoint note; the caller opens it with
// its policy.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.get(ctx, "/checkpoint", ledger.MaxCheckpoint)
}

// Proof fetches the .tlog-proof of an entry; the caller verifies it with its
// policy.
func (c *Client) Proof(ctx context.Context, index uint64) (*ledger.Proof, error) {
	b, err := c.get(ctx, fmt.Sprintf("/proof/%d", index), 2*ledger.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	return ledger.ParseProof(b)
}

func (c *Client) get(ctx context.Context, path string, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	}
	status, _, body, err := c.do(req, most)
	if err == nil && status != http.StatusOK {
		err = statusError(status, body)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	}
	return body, nil
}

func (c *Client) do(req *http.Request, most int64) (status int, h http.Header, body []byte, err error) {
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, nil, nil, err
	}
	if int64(len(body)) > most {
		return 0, nil, nil, fmt.Errorf("%w: answer above %d bytes", ledger.ErrMalformed, most)
	}
	return resp.StatusCode, resp.Header, body, nil
}

// statusError is the class of a refusal without results.
func statusError(status int, body []byte) error {
	class := ledger.ErrMalformed
	switch {
	case status == http.StatusTooManyRequests:
		class = ledger.ErrBusy
	case status >= 500:
		class = ledger.ErrHalted
	}
	return fmt.Errorf("%w: status %d: %s", class, status, firstLine(body))
}
